"""What rounding can do to a sum of doubles, and what it did to the sums that every sketch keeps."""

from __future__ import annotations

import math

from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics.dtypes import FloatArray

U = 2.0**-53
SMALLEST = 2.0**-1074


def gamma(n: int, unit_roundoff: float = U) -> float:
    """Relative error of a sum that takes n rounded operations in any order: n u / (1 - n u)."""
    return n * unit_roundoff / (1.0 - n * unit_roundoff)


def check_trace(eigenvalues: FloatArray, trace: float, allowed: float) -> None:
    """Raise ``ArithmeticCheckError`` unless eigenvalues add up to the trace of their matrix."""
    total = math.fsum(eigenvalues.tolist())
    if not abs(total - trace) <= allowed:  # nor is it a number
        raise ArithmeticCheckError(
            f"eigenvalues add up to {total!r}, the trace is {trace!r}: LAPACK or the machine is at fault"
        )


class Totals:
    """Energy and sums of rows as they were computed, and how far off they may be.

    Parameters
    ----------
    energy
        Sum of the squares of all values, as computed; ``sums`` those of the values, a feature each.
    chain
        Longest chain of additions that one of them went through.
    rows_error
        Relative error of the rows.

    Attributes
    ----------
    g
        ``gamma`` of a row's inner product and the additions after it.
    energy
        Most that the energy is.
    rows
        Most that the error of the rows does to the Gram matrix.
    lost
        Most that underflow took from a sum.
    """

    def __init__(self, n_rows: int, energy: float, sums: FloatArray, *, chain: int, rows_error: float) -> None:
        if not math.isfinite(energy):
            raise ArithmeticCheckError("the energy is not finite although every row was; please report this")
        self.n_rows, self.computed = n_rows, energy
        self.g = gamma(chain + sums.size + 8)
        self.lost = n_rows * (sums.size + 1) * SMALLEST
        self.energy = energy * (1.0 + self.g) + self.lost
        self.rows = 2.0 * rows_error * (1.0 + rows_error) * self.energy
        self.norm = math.hypot(*sums.tolist())
        self.sums_error = (self.g + rows_error) * math.sqrt(max(1, n_rows) * self.energy)
        self.sums_error += 4.0 * U * self.norm + self.lost

    @property
    def row_sum(self) -> tuple[float, float]:
        """Ends of the norm of the sum of all rows."""
        return max(0.0, self.norm - self.sums_error), self.norm + self.sums_error

    @property
    def mean_energy(self) -> float:
        """Energy that the mean has in all rows."""
        return self.norm**2 / max(1, self.n_rows)

    @property
    def mean_error(self) -> float:
        """Most that ``mean_energy``, and the Gram matrix of the mean, is off."""
        return (2.0 * self.norm + self.sums_error) * self.sums_error / max(1, self.n_rows)

    def ends(self, *, centered: bool) -> tuple[float, float]:
        """Return the least and most that the eigenvalues of the Gram matrix, raw or centred, add up to."""
        total = max(0.0, self.computed - centered * self.mean_energy)
        error = self.g * self.energy + self.rows + self.lost + centered * self.mean_error + 8.0 * U * self.energy
        return max(0.0, total - error), total + error
