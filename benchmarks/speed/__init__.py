"""Benchmarks of the time and memory of a pass, beside lower limits and other libraries."""
