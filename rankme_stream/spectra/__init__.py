"""Singular values, the values that the true ones may have, and the metrics computed from them."""
