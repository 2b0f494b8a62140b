"""Single weights to zero: which leave, and what the others become."""
