"""Passes whose processes are killed, and passes on clusters."""
