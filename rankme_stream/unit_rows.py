"""Rows scaled to unit length, for the metrics that look at directions only."""

from __future__ import annotations

import numpy as np

from rankme_stream.arrays import FloatArray

_SMALL_SQUARE = 2.0**-900  # below it squares lose digits to underflow


def rows_error(n_features: int) -> float:
    """Relative error of a scaled row: D/2 units for the sum of squares, four for root, reciprocal and product."""
    return (n_features / 2 + 4) * 2.0**-53


def scale_rows(panel: FloatArray, out: FloatArray) -> None:
    """Write the rows of a panel, scaled to unit length, into ``out``; rows of zeros become rows left out.

    Parameters
    ----------
    panel, out
        Shape ``(rows, 1 + D)``, the first column that of ones.
    """
    rows = panel[:, 1:]
    squares = np.einsum("ij,ij->i", rows, rows)
    np.multiply(rows, 1.0 / np.sqrt(np.maximum(squares, _SMALL_SQUARE))[:, None], out=out[:, 1:])
    out[:, 0] = panel[:, 0]
    for row in np.flatnonzero(squares < _SMALL_SQUARE):
        largest = np.abs(rows[row]).max()
        if largest == 0.0:
            out[row] = 0.0
            continue
        enlarged = np.ldexp(rows[row], -int(np.frexp(largest)[1]))
        out[row, 1:] = enlarged / np.sqrt(enlarged @ enlarged)
