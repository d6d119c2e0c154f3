"""What a task is: its kinds, its named sets, its texts, metrics and intervals. Nothing here needs torch."""
