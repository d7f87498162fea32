"""Benchmarks of passes whose processes are killed, and of passes on clusters."""
