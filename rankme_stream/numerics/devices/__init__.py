"""The processor and cards: what differs between them, and how one is found by name."""
