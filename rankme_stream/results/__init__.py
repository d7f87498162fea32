"""The result of a measurement, its JSON and table, and the comparison of several results."""
