"""How long the rows are, and rows scaled to unit length for the metrics that look at directions only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rankme_stream.arrays import FloatArray

_SMALL_SQUARE = 2.0**-900  # below it squares lose digits to underflow


@dataclass(frozen=True)
class Lengths:
    """Sums of |z|^2 and |z|^4 over some rows z; two of different rows merge."""

    squares: float = 0.0
    fourth_powers: float = 0.0

    @classmethod
    def of(cls, panel: FloatArray) -> Lengths:
        """Return those of a panel, shape ``(rows, 1 + D)``."""
        squares = np.einsum("ij,ij->i", panel[:, 1:], panel[:, 1:])
        return cls(float(squares.sum()), float(squares @ squares))

    def merge(self, other: Lengths) -> Lengths:
        """Return those of both sets of rows."""
        return Lengths(self.squares + other.squares, self.fourth_powers + other.fourth_powers)

    @property
    def effective_rows(self) -> float:
        """How many rows of equal length would weigh as evenly: (sum w)^2 / sum w^2, w = |z|^2; 0 beyond the doubles."""
        found = self.squares / self.fourth_powers * self.squares if self.fourth_powers else 0.0
        return found if math.isfinite(found) else 0.0


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
