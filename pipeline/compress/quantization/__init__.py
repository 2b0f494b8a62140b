"""Quantization engines: one adapter file each."""
