"""Runs for other people: on the hub, with a card."""
