"""Experts, mixtures and PEFT folders on disk, and what is read from and written to them."""
