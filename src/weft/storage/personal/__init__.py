"""Experts of users: thousands in one file, each read by its name alone."""
