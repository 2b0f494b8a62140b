"""Accuracy won back without labels: equalization, bias correction, learned rounding."""
