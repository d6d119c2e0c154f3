"""What there is to choose from, as pages; parameters counted; the schema of settings."""
