"""The rankme command."""
