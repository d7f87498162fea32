"""What a pass has found so far: it merges, travels and is stored."""
