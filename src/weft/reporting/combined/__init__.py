"""Experts that were combined: a mixture with its gates, a merge with what it lost."""
