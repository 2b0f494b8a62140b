"""Engines that quantize a graph to int8, each behind one adapter with the same request and the same result."""
