"""Finding a learning rate before a training: which rates are tried, and trying them."""
