"""What happens to experts and model before the first step, one question a file."""
