"""Texts: vectors of them, and what is written beside what should have been."""
