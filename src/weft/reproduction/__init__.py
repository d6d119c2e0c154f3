"""The study's six tables beside what is measured here.

published ─┐
profile ───┴> plan ─ runs ─> run folders ─> cells ─> Markdown
"""
