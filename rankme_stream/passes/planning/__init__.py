"""Plans of passes: schedule and memory, computed before the first read."""
