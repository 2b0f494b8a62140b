"""Kinds of tasks: what a network's outputs mean, its metrics and its loss. One file each, which a device runs too."""
