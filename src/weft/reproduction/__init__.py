"""The study's six tables beside what is measured here.

published ─┐
profile ───┴> plan ─ needs ─ running ─> run folders ─ report ─> document
"""
