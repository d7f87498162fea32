"""Benchmarks of passes whose processes are killed, whose servers fail, and of passes on clusters."""
