"""Spectrum of no more rows than features, from the products of rows with rows."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.rounding import SMALLEST, U, gamma
from rankme_stream.numerics.scaling import exponent_of, scaled
from rankme_stream.spectra.spectrum import ConsistentSet, SingularValues, Spectrum

_ROOT_OF_SMALLEST = 2.0**-537


class RowGram:
    """Products Z Z' of some rows Z, raw and centred; tiny rows are multiplied by a power of two first.

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
    Z Z' has the nonzero eigenvalues of Z'Z, at n^2 D flops and n^2 numbers. Each entry is one chain of D products and
    additions, so the Frobenius norm of the error is at most gamma_D |Z|_F^2. The mean is subtracted from the rows, not
    from their products: that error is relative to |Z|_F |Zc|_F, not to |Z|_F^2.

    References
    ----------
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, chapter 3.
    """

    def __init__(self, rows: FloatArray) -> None:
        self.n_rows: int = rows.shape[0]
        self.n_features: int = rows.shape[1]
        self._exponent = exponent_of(float(np.abs(rows).max()))
        self._rows = scaled(rows, self._exponent)
        self._mean: FloatArray = self._rows.sum(axis=0) / self.n_rows
        self._centered: FloatArray = self._rows - self._mean
        self.mean = scaled(self._mean, -self._exponent)
        self.centered = scaled(self._centered, -self._exponent)

    @cached_property
    def norm_bound(self) -> float:
        """Upper bound on |Z|_F, times 2^exponent."""
        return self._norm_bound(self._rows)

    @property
    def _lost(self) -> float:
        """Largest amount that the mean, or a centred row, loses to underflow."""
        return math.sqrt(self.n_features) * SMALLEST

    @property
    def _mean_error(self) -> float:
        error = gamma(self.n_rows + 1) * self.norm_bound / math.sqrt(self.n_rows)
        return error + self.n_rows * SMALLEST + self._lost

    @property
    def mean_error(self) -> float:
        """Bound on the error of the mean: gamma_(n+1) times the mean of the absolute values, feature by feature."""
        return math.ldexp(self._mean_error, -self._exponent) + self._lost

    @property
    def _scatter_error(self) -> float:
        norm = self._norm_bound(self._centered)
        shift = U * norm + math.sqrt(self.n_rows) * self._mean_error
        return shift * (2.0 * norm + shift)

    @property
    def scatter_error(self) -> float:
        """Bound on the error that rounding the mean and the subtraction causes in the products of centred rows."""
        return math.ldexp(self._scatter_error, -2 * self._exponent) + self.n_rows * self._lost

    def _norm_bound(self, rows: FloatArray) -> float:
        return float(np.linalg.norm(rows)) * (1.0 + gamma(rows.size + 2)) + math.sqrt(rows.size) * _ROOT_OF_SMALLEST

    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return the singular values, and bounds on the true ones; 8/3 n^3 + 2 n^2 D flops."""
        n_nonzero = min(int((self._rows != 0.0).any(axis=axis).sum()) for axis in (0, 1))
        n_zero = max(0, self.n_rows - n_nonzero)
        norm = float(np.linalg.norm(self._mean)) * self.n_rows
        error = self.n_rows * self._mean_error + (self.n_features + 8) * U * norm
        return Spectrum(
            raw=self._values(self._rows, 0.0, n_zero),
            centered=self._values(self._centered, self._scatter_error, max(n_zero, 1)),
            n_rows=self.n_rows,
            n_features=self.n_features,
            unit_roundoff=unit_roundoff,
            row_sum=(max(0.0, norm - error), norm + error),
            evidence="certified",
            confidence=1.0,
            grounds=f"certified: worst case of sums of {self.n_features:,} operations, margin (n + 32) u for the "
            "eigensolver",
        ).over(self._exponent)

    def _values(self, rows: FloatArray, error: float, zeros: int) -> SingularValues:
        products = rows @ rows.T
        trace = math.fsum(np.diagonal(products)) / (1.0 - gamma(self.n_features))
        underflow = self.n_rows * (self.n_features + 1) * SMALLEST
        squares = HOST.eigenvalues(products)
        margin = (self.n_rows + 32) * U * max(0.0, float(squares[0]))
        error += gamma(self.n_features) * (trace + underflow) + underflow + margin
        allowed = self.n_rows * (margin + 4.0 * U * trace + SMALLEST)
        if not (abs(math.fsum(squares) - trace) <= allowed + error and float(squares[-1]) >= -error):
            raise ArithmeticCheckError(
                f"eigenvalues of a group of {self.n_rows:,} rows add up to {math.fsum(squares)!r}, the least is "
                f"{float(squares[-1]):.3g}, the trace is {trace!r}: BLAS, LAPACK or the machine is at fault"
            )
        consistent = ConsistentSet.around_squares(squares, error * (1.0 + 2.0**-40)).with_zeros(zeros)
        return SingularValues(
            np.clip(np.sqrt(np.maximum(squares, 0.0)), consistent.lower, consistent.upper), consistent
        )
