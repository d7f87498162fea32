"""Figures that the documentation quotes; each module is run with ``python -m benchmarks.NAME``."""
