"""State of a pass: partial results that merge, travel and are stored."""
