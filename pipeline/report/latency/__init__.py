"""Comparisons, gates and benchmarks for people, and for programs that read JUnit."""
