"""What floors of the eigenvalues and their sum tell of a spectrum: the consistent set, and a likely member of it."""

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
_FITTED = (8, 2)  # the tail's slope is taken from ranks between these parts of the floors that are known
_STEEPEST, _SLOPES = 16.0, 40  # exponents tried, and how often their range is halved
_TAIL_SLACK = 2.0**-30  # of fourth powers, above what sums of them are rounded by


def gathered_rows(sketch_size: int) -> int:
    """Return how many rows Frequent Directions gather before they shrink to so many: twice as many, and 64 more."""
    return sketch_size + max(sketch_size, 64)


def nothing(size: int) -> SingularValues:
    """Return singular values that are all zero."""
    zeros = np.zeros(size)
    return SingularValues(zeros, ConsistentSet(zeros, zeros, (0.0, 0.0)))


def expected(size: int, sketch_size: int) -> SingularValues:
    """Return what a one-pass sketch by so many test vectors tells of singular values that fall as k^-1/2.

    The energy that floors leave over is, in the mean, at most (1 + k/(r - k - 1)) times what the values past the k-th
    hold, for the best k (Halko, Martinsson, Tropp 2011, theorem 10.5, for the square root of the Gram); here the floors
    are taken to be the first squares up to there.
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
    """Return the consistent set of floors and energy, and the member with a tail that falls as a power.

    Parameters
    ----------
    floor
        Floors of the largest eigenvalues, descending; the others have zero.
    energy
        Least and most that all eigenvalues add up to.
    size
        How many there are; ``zeros`` of them are zero exactly.
    rise
        Most that an eigenvalue may be above its floor, where that is known.
    complement
        Bounds from probes, where there were some.
    """
    live = size - zeros
    squares = np.zeros(max(live, 0))
    known = min(live, floor.size)
    squares[:known] = floor[:known]
    if live <= 0 or energy[1] <= 0.0:
        return nothing(size)
    energy = (energy[0], energy[1] * (1.0 + 8.0 * live * U))  # what sums of so many values are rounded by
    if not squares.sum() <= energy[1]:  # nor is it a number
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
    box = ConsistentSet(np.concatenate([lower, padding]), np.concatenate([upper, padding]), energy, tail)
    return SingularValues(np.concatenate([values, padding]), box)


def _tailed(floor: FloatArray, energy: float, ceiling: FloatArray, second: tuple[int, float] | None) -> FloatArray:
    """Return the larger of the floor and c k^-a, below the ceiling, for the c at which all add up to the energy.

    The exponent is that of the floors, or the one at which those past the first few have the norm that ``second`` says.
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
    """Return that member for an energy of one."""
    shape = np.arange(1, floor.size + 1, dtype=np.float64) ** -slope

    def is_short(factor: float) -> bool:
        return float(np.clip(factor * shape, floor, ceiling).sum()) < 1.0

    _, factor = bisect(is_short, 0.0, 1.0 / float(shape[-1]), middle=mean)
    return np.clip(factor * shape, floor, ceiling)


def _slope(floor: FloatArray) -> float:
    """Return the exponent a of the floors between an eighth and a half of those above zero; 0 of too few."""
    known = int(np.count_nonzero(floor))
    first, last = known // _FITTED[0], known // _FITTED[1]
    if last - first < 3:
        return 0.0
    ranks = np.log(np.arange(first + 1, last + 1))
    heights = np.log(floor[first:last])
    ranks -= ranks.mean()
    return max(0.0, -float((ranks * heights).sum() / (ranks * ranks).sum()))


class ComplementBounds(NamedTuple):
    """What is known of the eigenvalues beside their floors and their sum.

    Attributes
    ----------
    ceilings
        Most that each of the first can be, as many as there are directions.
    largest
        Most that each of the others can be.
    start
        How many of the first are surely above all that is not seen.
    norm, likely
        Most that the Euclidean norm of those past them is, and what it is likely to be.
    """

    ceilings: FloatArray
    largest: float
    start: int
    norm: float
    likely: float

    def scaled(self, factor: float) -> ComplementBounds:
        """Return the same of a matrix so many times as large."""
        return ComplementBounds(
            self.ceilings * factor, self.largest * factor, self.start, self.norm * factor, self.likely * factor
        )
