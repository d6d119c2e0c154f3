"""Experts that are generated and not trained: a conditional autoencoder over experts of many tasks (ICM-LoRA)."""
