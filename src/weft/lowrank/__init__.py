"""Equation (U), and nothing about any paper: frozen linear maps and what is woven into them."""
