"""Answers for users who have experts of their own."""
