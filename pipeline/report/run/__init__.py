"""A run for people: terminal, Markdown and a page."""
