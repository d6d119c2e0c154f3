"""LoRAM: a pruned copy of a base to train on, and the way back."""
