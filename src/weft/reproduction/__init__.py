"""The study's six tables beside what is measured here.

published ─┐
profile ───┴> plan ─ needs ─ running ─> run folders ─ result ─> sections ─> page, Markdown, terminal; JSON
"""
