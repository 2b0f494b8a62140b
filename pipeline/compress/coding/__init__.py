"""Encoded weights: the codes, which of them is smallest for a tensor, and a file that gives back the original bytes."""
