"""Probes: what a small model reads from frozen vectors, and how much of that it learned by itself."""
