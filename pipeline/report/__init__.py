"""run.json to terminal table, Markdown, JSON and a self-contained HTML page."""
