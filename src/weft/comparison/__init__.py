"""Many runs set against each other: a grid, its jobs and workers, differences beyond chance, a leaderboard."""
