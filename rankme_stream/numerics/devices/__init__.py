"""Devices that arrays are on, the processor and cards: their differences, and how to find one by name."""
