"""Copies of rows from any source in one zarr array that is fast to read."""
