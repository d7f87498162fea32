"""How numbers are stored, rounded, drawn at random and multiplied."""
