"""Figures that the documentation quotes; ``python -m benchmarks --list`` names the benchmarks."""
