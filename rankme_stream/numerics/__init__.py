"""Storage, rounding, random drawing and products of numbers."""
