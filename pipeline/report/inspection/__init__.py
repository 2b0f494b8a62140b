"""`secateur inspect` for people: a network, or an exported file."""
