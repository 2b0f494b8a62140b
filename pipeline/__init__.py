"""Secateur: turns a trained network into the smallest, fastest artifact that keeps its accuracy, and proves it."""

__version__ = "0.1.0"
