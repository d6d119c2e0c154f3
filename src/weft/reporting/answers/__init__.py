"""What an expert answered: its scores, its classes, its mistakes, and what its confidence is worth."""
