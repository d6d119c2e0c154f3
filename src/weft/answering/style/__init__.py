"""Writing in the style of a corpus without training: n-grams of it weigh on the next token, and what that does."""
