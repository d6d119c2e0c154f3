"""PEFT's names, settings and tensors: its folders read, and ours written so that it opens them."""
