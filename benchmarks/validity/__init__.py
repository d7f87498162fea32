"""Benchmarks of whether intervals hold the true value, and how narrow they are."""
