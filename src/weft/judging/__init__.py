"""Written answers evaluated on two tracks, by lexical metrics and by judges, and how far the two agree."""
