"""Majorisation of singular values whose lower ends, upper ends and energy are known.

A sketch knows less about each value than a Gram matrix and more about all together: the k-th lies between ``lower[k]``
and ``upper[k]``, and the sum of all squares is at most the energy; several passes also bound the fourth powers of all
values past the first few. A *head* is the first k values. Everything here is pure and O(m log m).
"""

from __future__ import annotations

import numpy as np

from rankme_stream.numerics.bisection import bisect, bisect_each
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import U
from rankme_stream.spectra.spectrum import Tail

_HALVINGS = 80  # of the range of levels, down to below the spacing of doubles
_MAX_HEADS = 4096  # heads evaluated: all, or about this many of more
_SPLITS = 32  # ways to part the fourth powers between a head and the values past it
_TINY = np.finfo(float).tiny


def levelled(lower: FloatArray, upper: FloatArray, total: float, *, squares: bool = False) -> FloatArray:
    """Return ``clip(t, lower, upper)`` for the least level t at which the sum (of the squares) reaches ``total``."""

    def is_short(level: float) -> bool:
        values = np.clip(level, lower, upper)
        return float((values * values if squares else values).sum()) < total

    _, level = bisect(is_short, float(lower[-1]), float(upper[0]), _HALVINGS)
    reached: FloatArray = np.clip(level, lower, upper)
    return reached


def packed(lower: FloatArray, upper: FloatArray, total: float) -> FloatArray:
    """Return the vector of sum ``total`` that majorises every other: filled from the largest value down."""
    left = max(0.0, total - float(lower.sum()))
    room = upper - lower
    before = np.concatenate([[0.0], np.cumsum(room)[:-1]])
    return np.minimum(upper, lower + np.clip(left - before, 0.0, room))


def ceilings(lower: FloatArray, energy: float) -> FloatArray:
    """Return the largest possible value of each, shape ``(m,)``; the first k are then all at one level or above it."""
    most = np.full(lower.size, np.sqrt(max(energy, float(lower[0]) ** 2)))
    levels = _Heads(lower, most, np.arange(1, lower.size + 1)).levels(energy)
    return np.maximum(levels, lower)


def largest_heads(lower: FloatArray, upper: FloatArray, energy: float) -> FloatArray:
    """Return, for each k from 0 to m, the largest possible sum of the first k values, shape ``(m + 1,)``.

    Those values take all of the energy that the others can do without, and lie as near to one level as both ends
    allow: at a given sum of squares, a sum is largest when its terms are equal.
    """
    heads = _Heads(lower, upper, np.arange(lower.size + 1))
    return heads.sums(heads.levels(energy))


def majorant(
    lower: FloatArray, upper: FloatArray, energy: tuple[float, float], tail: Tail | None = None
) -> tuple[FloatArray, tuple[float, float]]:
    """Return shares, descending and of sum one, that majorise those of every allowed vector; and the ends of its sum.

    The first k values hold at most the share U_k / (U_k + L_k), U_k being their largest and L_k the least sum of the
    others. The shares returned are the steps, which descend, of the least concave function above those points. Their
    partial sums are no less than any vector's, so a Schur-concave function of shares is smallest for them.
    """
    m = lower.size
    lengths = _head_lengths(m, 0 if tail is None else tail.start)
    heads = _Heads(lower, upper, lengths)
    most = heads.sums(heads.levels(energy[1]))
    others = _Others(lower, upper, lengths, energy[0], tail)
    spent = heads.most_energy(energy[1])
    floor = _suffix(lower)[lengths]
    least = floor + np.maximum.accumulate((others.least(spent) - floor)[::-1])[::-1]
    shares = most / np.maximum(most + least, _TINY)
    if tail is not None and tail.start < m:
        shares = np.minimum(shares, _split(heads, tail, most, spent, others))
    return _steps(shares, lengths, m), (float(least[0]), float(most[-1]))


def squares_majorant(lower: FloatArray, upper: FloatArray, energy: tuple[float, float], tail: Tail) -> FloatArray:
    """Return shares of the squares, descending and of sum one, that majorise those of every allowed vector."""
    if energy[0] <= 0.0:  # then the first value may hold all
        return np.where(np.arange(lower.size) == 0, 1.0, 0.0)
    lengths = _head_lengths(lower.size, tail.start)
    heads = _Heads(lower, upper, lengths)
    most = heads.most_energy(energy[1])
    if tail.start < lower.size:
        inner = heads.past(tail.start, squares=True)
        tails = float((upper[: tail.start] ** 2).sum()) + inner.sums(inner.levels(tail.norm**2))
        most = np.where(lengths > tail.start, np.minimum(most, tails), most)
    return _steps(most / energy[0] * (1.0 + _slack(lower.size)), lengths, lower.size)


def _steps(shares: FloatArray, lengths: Array, m: int) -> FloatArray:
    """Return the steps of the least concave function above the largest shares of heads of those lengths."""
    reached = np.maximum.accumulate(np.minimum(shares, 1.0))
    points = reached[np.searchsorted(lengths, np.arange(m + 1))]  # no more than a longer head
    points[0], points[-1] = 0.0, 1.0
    return np.diff(_concave(points))


def _head_lengths(m: int, start: int) -> Array:
    """Return the lengths of the heads to evaluate: all, or those near both ends and a hundredth apart elsewhere."""
    if m <= _MAX_HEADS:
        return np.arange(m + 1)
    spread = np.geomspace(1.0, m, _MAX_HEADS // 2).astype(np.int64)
    near = np.concatenate([np.arange(_MAX_HEADS // 2), spread, start + np.arange(-8, 9), start + spread, [start, m]])
    return np.unique(np.clip(near, 0, m))


def _split(heads: _Heads, tail: Tail, most: FloatArray, spent: FloatArray, others: _Others) -> FloatArray:
    """Return the largest share of each head, over all ways to part the tail's fourth powers between it and the rest.

    Between two neighbouring ways the head has at most its part in the later one, and the rest at least its part in
    the earlier one.
    """
    start, lengths = tail.start, heads.lengths
    inner, roots = heads.past(start, squares=True), heads.past(start)
    floor = _sums(inner.lower**2)[inner.lengths]
    room = np.maximum(tail.norm**2 - floor, 0.0)
    first, first_energy = most[int(np.searchsorted(lengths, start))], float((heads.upper[:start] ** 2).sum())
    ways = floor + room * ((np.arange(_SPLITS + 1) / _SPLITS) ** 2)[:, None]
    levels = inner.levels(ways[1:], is_of_heads=True)
    head = np.minimum(most, first + roots.sums(np.sqrt(levels)))
    rest = others.least(np.minimum(first_energy + inner.sums(levels), spent), tail.norm**2 - ways[:-1])
    shares = (head / np.maximum(head + rest, _TINY)).max(axis=0)
    return np.where(lengths > start, shares, 1.0)


class _Heads:
    """Heads of some lengths, ascending, with their values as near to one level as both ends allow."""

    def __init__(self, lower: FloatArray, upper: FloatArray, lengths: Array) -> None:
        self.lower, self.upper, self.lengths = lower, upper, lengths
        self._sums = {power: (_sums(lower**power), _sums(upper**power)) for power in (1, 2)}

    def past(self, start: int, *, squares: bool = False) -> _Heads:
        """Return the heads without the first ``start`` values, or those of the squares."""
        power = 2 if squares else 1
        return _Heads(self.lower[start:] ** power, self.upper[start:] ** power, np.maximum(self.lengths - start, 0))

    def levels(self, energy: float | FloatArray, *, is_of_heads: bool = False) -> FloatArray:
        """Return the level at which the squares of each head reach the energy that the others leave, or all of it."""
        own = self._sums[2][0][self.lengths]
        budget = np.maximum(energy if is_of_heads else energy - _suffix(self.lower**2)[self.lengths], own)
        low, high = np.full(budget.shape, self.lower[-1]), np.full(budget.shape, self.upper[0])
        return bisect_each(lambda level: self.sums(level, squares=True) < budget, low, high, _HALVINGS)[1]

    def sums(self, level: FloatArray, *, squares: bool = False) -> FloatArray:
        """Return the sum of each head, or of its squares, with every value as near to the level as both ends allow."""
        power = 2 if squares else 1
        floor, ceiling = self._sums[power]
        above = np.minimum(np.searchsorted(-self.lower, -level, side="left"), self.lengths)
        reached = np.minimum(np.searchsorted(-self.upper, -level, side="right"), self.lengths)
        sums: FloatArray = floor[above] + (reached - above) * level**power + (ceiling[self.lengths] - ceiling[reached])
        return sums

    def most_energy(self, energy: float) -> FloatArray:
        """Return the largest possible sum of the squares of each head, for that energy of all values."""
        free = energy - _suffix(self.lower**2)[self.lengths]
        most: FloatArray = np.minimum(self._sums[2][1][self.lengths], np.maximum(free, 0.0))
        return most


class _Others:
    """Values past each head, with lower bounds on their sum."""

    def __init__(self, lower: FloatArray, upper: FloatArray, lengths: Array, energy: float, tail: Tail | None) -> None:
        self._energy = energy * (1.0 - _slack(lower.size))
        self._floor, self._most = _suffix(lower)[lengths], _suffix(upper)[lengths]
        self._ceiling = np.append(upper, 0.0)[lengths]
        self._fourth = np.full(lengths.size, np.inf)
        if tail is not None:
            of_head = _sums(lower[tail.start :] ** 4)[np.maximum(lengths - tail.start, 0)]
            self._fourth = np.where(lengths >= tail.start, tail.norm**2 - of_head, np.inf)

    def least(self, spent: FloatArray, fourth: FloatArray | None = None) -> FloatArray:
        """Return the least possible sum of the others where the heads hold at most the energy ``spent``.

        No value is above its ceiling, and (sum s^2)^3 <= (sum s)^2 (sum s^4) (Hoelder).
        """
        left = np.maximum(self._energy - spent, 0.0)
        fourth = np.maximum(self._fourth if fourth is None else fourth, _TINY)
        with np.errstate(over="ignore"):  # where the others are zero; clipped below
            by_ceiling = left / np.maximum(self._ceiling, _TINY)
            by_fourth = left / np.sqrt(fourth / np.maximum(left, _TINY))
        either = np.maximum(by_ceiling, by_fourth) * (1.0 - _slack(self._floor.size))
        least: FloatArray = np.clip(either, self._floor, self._most)
        return least


def _concave(points: FloatArray) -> FloatArray:
    """Return the least concave sequence that is nowhere below the points."""
    corners: list[int] = []
    for k, height in enumerate(points.tolist()):
        while len(corners) > 1:
            first, second = corners[-2], corners[-1]
            if (points[second] - points[first]) * (k - first) > (height - points[first]) * (second - first):
                break
            corners.pop()
        corners.append(k)
    return np.interp(np.arange(points.size), corners, points[corners])


def _sums(values: FloatArray) -> FloatArray:
    return np.concatenate([[0.0], np.cumsum(values)])


def _suffix(values: FloatArray) -> FloatArray:
    """Return the sum of the values past the first k, for each k from 0 to m."""
    return np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])


def _slack(m: int) -> float:
    """Return a relative margin above the rounding error of sums of m terms."""
    return (64 + 4 * m) * U
