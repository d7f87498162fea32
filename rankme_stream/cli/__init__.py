"""The ``rankme`` command."""
