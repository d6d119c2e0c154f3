"""Runs as pages: tables, Markdown, one self-contained HTML file, model cards."""
