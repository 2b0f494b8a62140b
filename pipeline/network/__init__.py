"""A torch network as an artifact: defined, stored, traced, trained, timed."""
