"""A base with another tokenizer: trained on a corpus or given, its embeddings translated from those that were there."""
