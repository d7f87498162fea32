"""Stores of other libraries: requests, their faults, and what a store says of its objects."""
