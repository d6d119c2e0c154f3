"""What an expert or a task needs: experts with a part of their change taken away, and short trainings in small spaces."""
