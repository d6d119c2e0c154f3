"""What makes README's picture and tables, and the site of `docs/`; nothing of it is in the wheel."""
