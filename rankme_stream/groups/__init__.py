"""Rows kept apart by label, their scores and LiDAR."""
