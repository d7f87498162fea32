"""Accumulators, which keep a summary of the rows of a pass: one module per method."""
