"""Importance criteria: one small pure file each."""
