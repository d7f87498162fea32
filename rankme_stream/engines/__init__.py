"""Engines run a plan: thin adapters over the one loop in ``passes``."""
