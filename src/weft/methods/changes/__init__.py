"""Changes of several experts as matrices: what is left of one, and what several agree on.

Nothing here knows of experts, maps or files: a merge says in these terms what it is.
"""
