"""Engines run a plan: thin adapters over the one loop."""
