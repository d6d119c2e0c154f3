"""Several experts combined beforehand into one that costs what one costs; sums and differences of whole models."""
