"""What a pass will do and hold in memory, worked out before the first read."""
