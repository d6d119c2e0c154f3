"""Results as documents: one model of what a report says, one set of writers, and the reports of runs and comparisons.

results ─ a function ─> Document ─ writers ─> page, Markdown, terminal, JSON
"""
