"""Randomized SVD (Nystrom) of the Gram matrix, in one pass or several."""
