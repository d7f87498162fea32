"""Accumulators, which stand for the rows of a pass: one module per method."""
