"""What an expert answered, row by row: its classes, its mistakes, and what its confidence is worth."""
