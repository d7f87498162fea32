"""How fast and how large a pass is, beside limits and peers."""
