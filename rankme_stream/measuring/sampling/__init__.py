"""Samples: rows read in random order until the interval is narrow enough."""
