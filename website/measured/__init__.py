"""The pages of `docs/results/`, the findings and README's table, from `results/`: `python -m website.measured`.

A file here that has a `document` is a page of its name.
"""
