"""Rows from files, the hub or thin air, checked and encoded."""
