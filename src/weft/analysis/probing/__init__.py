"""Probes of base and experts: what they are to find, who is probed, and what a difference is worth."""
