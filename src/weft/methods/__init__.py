"""Every method is one file: adapters, optimizers, penalties, controllers, plans, mixtures, merges, recipes.

What several mixtures or merges stand on is in `gates` and `changes`.
"""
