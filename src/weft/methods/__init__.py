"""Every method is one file: adapters, optimizers, penalties, controllers, plans, gates, mixtures, merges, recipes."""
