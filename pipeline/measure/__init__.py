"""Latency of exported files: clock, sampling, statistics, machine."""
