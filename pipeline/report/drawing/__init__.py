"""What pages are drawn with: SVG, charts, labels that keep clear of each other, templates."""
