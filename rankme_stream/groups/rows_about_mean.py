"""The mean of some rows, the rows less it, and bounds on the errors of both."""

from __future__ import annotations

import math

import numpy as np

from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.rounding import SMALLEST, U, gamma
from rankme_stream.numerics.scaling import exponent_of, scaled

_ROOT_OF_SMALLEST = 2.0**-537


class RowsAboutMean:
    """Rows Z less their mean; tiny rows are multiplied by a power of two first.

    Parameters
    ----------
    rows
        Shape ``(n, D)``, float64, finite, n at least 1.

    Attributes
    ----------
    mean, centered
        Mean of the rows, shape ``(D,)``, and the rows less it, shape ``(n, D)``.

    Notes
    -----
    The mean is subtracted from the rows, not from their products: that error is relative to |Z|_F |Zc|_F, not to
    |Z|_F^2.
    """

    def __init__(self, rows: FloatArray) -> None:
        self.n_rows: int = rows.shape[0]
        self.n_features: int = rows.shape[1]
        self._exponent = exponent_of(float(np.abs(rows).max()))
        self._rows = scaled(rows, self._exponent)
        mean: FloatArray = self._rows.sum(axis=0) / self.n_rows
        self._centered: FloatArray = self._rows - mean
        self.mean = scaled(mean, -self._exponent)
        self.centered = scaled(self._centered, -self._exponent)

    @property
    def _lost(self) -> float:
        """Largest amount that the mean, or a centred row, loses to underflow."""
        return math.sqrt(self.n_features) * SMALLEST

    @property
    def _mean_error(self) -> float:
        error = gamma(self.n_rows + 1) * _norm_bound(self._rows) / math.sqrt(self.n_rows)
        return error + self.n_rows * SMALLEST + self._lost

    @property
    def mean_error(self) -> float:
        """Bound on the error of the mean: gamma_(n+1) times the mean of the absolute values, feature by feature."""
        return math.ldexp(self._mean_error, -self._exponent) + self._lost

    @property
    def scatter_error(self) -> float:
        """Bound on the error that rounding the mean and the subtraction causes in the products of centred rows."""
        norm = _norm_bound(self._centered)
        shift = U * norm + math.sqrt(self.n_rows) * self._mean_error
        return math.ldexp(shift * (2.0 * norm + shift), -2 * self._exponent) + self.n_rows * self._lost


def _norm_bound(rows: FloatArray) -> float:
    """Return an upper bound on the Frobenius norm."""
    return float(np.linalg.norm(rows)) * (1.0 + gamma(rows.size + 2)) + math.sqrt(rows.size) * _ROOT_OF_SMALLEST
