"""Spectrum from floors of the eigenvalues and their sum: the consistent set, and a likely member of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics.bisection import bisect, mean
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.rounding import SOLVER_MARGIN, U
from rankme_stream.spectra import majorization
from rankme_stream.spectra.spectrum import ConsistentSet, SingularValues, Tail

GROUNDS = f"margin {SOLVER_MARGIN:g} (r + 32) u for factorisations; the value is that of a tail that falls as a power"
_FITTED = (8, 2)  # the slope of the tail is fitted from the known ranks divided by 8 to those divided by 2
_STEEPEST, _SLOPES = 16.0, 40  # largest exponent, and how often the range of exponents is halved
_TAIL_SLACK = 2.0**-30  # relative, of fourth powers; above the rounding of their sums


def gathered_rows(sketch_size: int) -> int:
    """Return the number of rows that Frequent Directions gather before they shrink: double, or 64 more if larger."""
    return sketch_size + max(sketch_size, 64)


def zero_values(size: int) -> SingularValues:
    """Return singular values that are all zero."""
    zeros = np.zeros(size)
    return SingularValues(zeros, ConsistentSet(zeros, zeros, (0.0, 0.0)))


def expected(size: int, sketch_size: int) -> SingularValues:
    """Return the spectrum expected of a one-pass sketch by r test vectors for singular values that fall as k^-1/2.

    The energy beyond the floors is, in the mean, at most (1 + k/(r - k - 1)) times the energy of the values past the
    k-th, for the best k (Halko, Martinsson, Tropp 2011, theorem 10.5, for the square root of the Gram). Here the floors
    are the leading squares until that energy is left.
    """
    squares = 1.0 / np.arange(1, size + 1)
    rest = squares.sum() - np.cumsum(squares)
    k = np.arange(1, min(max(2, sketch_size - 1), size + 1))
    left = float(((1.0 + k / np.maximum(sketch_size - k - 1.0, 1.0)) * rest[k - 1]).min())
    floor = squares[: int(np.searchsorted(np.cumsum(squares), squares.sum() - left)) + 1][:sketch_size]
    total = float(squares.sum())
    return singular_values_from_floors(floor, (total, total), size, 0)


def singular_values_from_floors(
    floor: FloatArray,
    energy: tuple[float, float],
    size: int,
    zeros: int,
    *,
    rise: float | None = None,
    complement: ComplementBounds | None = None,
) -> SingularValues:
    """Return the consistent set for floors and an energy, and the member with a tail that falls as a power.

    Parameters
    ----------
    floor
        Floors of the largest eigenvalues, descending; those of the others are zero.
    energy
        Ends of the sum of all eigenvalues.
    size
        Number of eigenvalues; ``zeros`` of them are zero exactly.
    rise
        Bound on the distance of an eigenvalue from its floor, where it is known.
    complement
        Bounds from probes, where there were some.
    """
    live = size - zeros
    squares = np.zeros(max(live, 0))
    known = min(live, floor.size)
    squares[:known] = floor[:known]
    if live <= 0 or energy[1] <= 0.0:
        return zero_values(size)
    energy = (energy[0], energy[1] * (1.0 + 8.0 * live * U))  # rounding of sums of so many values
    if not squares.sum() <= energy[1]:  # "not <=" also catches NaN
        raise ArithmeticCheckError(
            f"floors of the eigenvalues add up to {squares.sum()!r}, all of them to {energy[1]!r} at most: BLAS, "
            "LAPACK or the machine is at fault"
        )
    lower = np.sqrt(squares) * (1.0 - 4.0 * U)
    upper = majorization.ceilings(lower, energy[1]) * (1.0 + 4.0 * live * U)
    if rise is not None:
        upper = np.minimum(upper, np.sqrt(squares + rise) * (1.0 + 4.0 * U))
    tail: Tail | None = None
    second: tuple[int, float] | None = None
    if complement is not None and complement.start < live:
        tail, second = (
            Tail(complement.start, complement.norm * (1.0 + _TAIL_SLACK)),
            (complement.start, complement.likely),
        )
        most = np.full(live, complement.largest)
        most[: complement.ceilings.size] = complement.ceilings[:live]
        past = majorization.ceilings(squares[complement.start :] / tail.norm, 1.0) * tail.norm * (1.0 + 4.0 * live * U)
        most[complement.start :] = np.minimum(most[complement.start :], past)
        upper = np.minimum(upper, np.sqrt(most) * (1.0 + 4.0 * U))
    upper = np.maximum(np.minimum.accumulate(upper), lower)
    middle = min((energy[0] + energy[1]) / 2.0, float((upper**2).sum()))
    values = np.clip(np.sqrt(_tailed(squares, middle, upper**2, second)), lower, upper)
    values = np.maximum.accumulate(values[::-1])[::-1]
    padding = np.zeros(zeros)
    consistent = ConsistentSet(np.concatenate([lower, padding]), np.concatenate([upper, padding]), energy, tail)
    return SingularValues(np.concatenate([values, padding]), consistent)


def _tailed(floor: FloatArray, energy: float, ceiling: FloatArray, second: tuple[int, float] | None) -> FloatArray:
    """Return the larger of the floor and c k^-a, below the ceiling, with c such that all add up to the energy.

    The exponent is that of the floors; or, for ``second`` = (k, norm), the one at which the values past the first k
    have that norm.
    """
    floor, ceiling = floor / energy, ceiling / energy  # so that no power of a rank overflows
    if second is None:
        return energy * _power(floor, ceiling, _slope(floor))
    start, wanted = second[0], second[1] / energy

    def is_too_steep(slope: float) -> bool:
        return float(np.linalg.norm(_power(floor, ceiling, slope)[start:])) < wanted

    low, high = bisect(is_too_steep, 0.0, _STEEPEST, _SLOPES, middle=mean)
    return energy * _power(floor, ceiling, mean(low, high))


def _power(floor: FloatArray, ceiling: FloatArray, slope: float) -> FloatArray:
    """Return the member with the exponent ``slope`` and an energy of one."""
    shape = np.arange(1, floor.size + 1, dtype=np.float64) ** -slope

    def is_short(factor: float) -> bool:
        return float(np.clip(factor * shape, floor, ceiling).sum()) < 1.0

    _, factor = bisect(is_short, 0.0, 1.0 / float(shape[-1]), middle=mean)
    return np.clip(factor * shape, floor, ceiling)


def _slope(floor: FloatArray) -> float:
    """Return the exponent a of the floors between an eighth and a half of the nonzero ones; 0 for too few."""
    known = int(np.count_nonzero(floor))
    first, last = known // _FITTED[0], known // _FITTED[1]
    if last - first < 3:
        return 0.0
    ranks = np.log(np.arange(first + 1, last + 1))
    heights = np.log(floor[first:last])
    ranks -= ranks.mean()
    return max(0.0, -float((ranks * heights).sum() / (ranks * ranks).sum()))


class ComplementBounds(NamedTuple):
    """Bounds on the eigenvalues beside their floors and their sum.

    Attributes
    ----------
    ceilings
        Upper bounds on the leading eigenvalues, as many as there are directions.
    largest
        Upper bound on each of the others.
    start
        Number of leading eigenvalues that are above all those of the complement of the directions.
    norm, likely
        Upper bound on, and likely value of, the Euclidean norm of the eigenvalues past ``start``.
    """

    ceilings: FloatArray
    largest: float
    start: int
    norm: float
    likely: float

    def scaled(self, factor: float) -> ComplementBounds:
        """Return the bounds for the matrix times ``factor``."""
        return ComplementBounds(
            self.ceilings * factor, self.largest * factor, self.start, self.norm * factor, self.likely * factor
        )
