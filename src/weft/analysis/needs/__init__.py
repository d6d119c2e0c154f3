"""What an expert or a task needs: experts without a part of their change, and short trainings in small spaces."""
