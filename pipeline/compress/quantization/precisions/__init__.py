"""Precisions that need no ranges: half floats, weights in blocks, activations quantized as they come."""
