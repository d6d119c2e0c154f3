"""A trunk with heads, experts and mixtures: what is trained and what answers."""
