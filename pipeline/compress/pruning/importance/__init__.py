"""Importance criteria: one small pure file each, and the table of them in criteria.py."""
