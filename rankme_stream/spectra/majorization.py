"""Singular values of which a floor, a ceiling and the energy are known: their levels, their heads, what they majorise.

A sketch knows less of each value than a Gram and more of all together: the k-th lies between ``lower[k]`` and
``upper[k]``, and the squares of all add up to no more than the energy; several passes know a bound on the fourth powers
of all past the first few as well. Everything here is pure and O(m log m).
"""

from __future__ import annotations

import numpy as np

from rankme_stream.numerics.bisection import bisect, bisect_each
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import U
from rankme_stream.spectra.spectrum import Tail

_HALVINGS = 80  # of the range of levels: below the spacing of doubles
_PLACES = 4096  # heads looked at; of more values, about so many
_SPLITS = 32  # of the fourth powers between a head and what is left
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
    """Return the vector of that sum between both ends that majorises every other: filled from the largest down."""
    left = max(0.0, total - float(lower.sum()))
    room = upper - lower
    before = np.concatenate([[0.0], np.cumsum(room)[:-1]])
    return np.minimum(upper, lower + np.clip(left - before, 0.0, room))


def ceilings(lower: FloatArray, energy: float) -> FloatArray:
    """Return the most that each value can be, shape ``(m,)``: the first k are then all at one level, or above it."""
    most = np.full(lower.size, np.sqrt(max(energy, float(lower[0]) ** 2)))
    levels = _Heads(lower, most, np.arange(1, lower.size + 1)).levels(energy)
    return np.maximum(levels, lower)


def largest_heads(lower: FloatArray, upper: FloatArray, energy: float) -> FloatArray:
    """Return, for each k from 0 to m, the most that the first k values can add up to, shape ``(m + 1,)``.

    Those values take all of the energy that the others can do without, and come as near one level as both ends let
    them: a sum of roots is largest for what they have in common.
    """
    heads = _Heads(lower, upper, np.arange(lower.size + 1))
    return heads.sums(heads.levels(energy))


def majorant(
    lower: FloatArray, upper: FloatArray, energy: tuple[float, float], tail: Tail | None = None
) -> tuple[FloatArray, tuple[float, float]]:
    """Return shares, descending and of sum one, that majorise those of every vector allowed; and the ends of its sum.

    The first k values hold at most the share U_k / (U_k + L_k): U_k is the most that they can add up to, L_k the least
    that the others can. The least concave function above those points has the shares as its steps, which descend; their
    partial sums are no less than any vector's, so a Schur-concave function of shares is nowhere less.
    """
    m = lower.size
    places = _places(m, 0 if tail is None else tail.start)
    heads = _Heads(lower, upper, places)
    most = heads.sums(heads.levels(energy[1]))
    others = _Others(lower, upper, places, energy[0], tail)
    spent = heads.most_energy(energy[1])
    alone = _suffix(lower)[places]
    least = alone + np.maximum.accumulate((others.least(spent) - alone)[::-1])[::-1]
    shares = most / np.maximum(most + least, _TINY)
    if tail is not None and tail.start < m:
        shares = np.minimum(shares, _split(heads, tail, most, spent, others))
    return _steps(shares, places, m), (float(least[0]), float(most[-1]))


def squares_majorant(lower: FloatArray, upper: FloatArray, energy: tuple[float, float], tail: Tail) -> FloatArray:
    """Return shares of the squares, descending and of sum one, that majorise those of every vector allowed."""
    if energy[0] <= 0.0:  # then the first may have all
        return np.where(np.arange(lower.size) == 0, 1.0, 0.0)
    places = _places(lower.size, tail.start)
    heads = _Heads(lower, upper, places)
    most = heads.most_energy(energy[1])
    if tail.start < lower.size:
        inner = heads.past(tail.start, squares=True)
        tails = float((upper[: tail.start] ** 2).sum()) + inner.sums(inner.levels(tail.norm**2))
        most = np.where(places > tail.start, np.minimum(most, tails), most)
    return _steps(most / energy[0] * (1.0 + _slack(lower.size)), places, lower.size)


def _steps(shares: FloatArray, places: Array, m: int) -> FloatArray:
    """Return the steps of the least concave function above what the first k hold at most, for k at some places."""
    reached = np.maximum.accumulate(np.minimum(shares, 1.0))
    points = reached[np.searchsorted(places, np.arange(m + 1))]  # no more than a longer head
    points[0], points[-1] = 0.0, 1.0
    return np.diff(_concave(points))


def _places(m: int, start: int) -> Array:
    """Return the k of the heads that are looked at: all, or those near both ends and a hundredth apart elsewhere."""
    if m <= _PLACES:
        return np.arange(m + 1)
    spread = np.geomspace(1.0, m, _PLACES // 2).astype(np.int64)
    near = np.concatenate([np.arange(_PLACES // 2), spread, start + np.arange(-8, 9), start + spread, [start, m]])
    return np.unique(np.clip(near, 0, m))


def _split(heads: _Heads, tail: Tail, most: FloatArray, spent: FloatArray, others: _Others) -> FloatArray:
    """Return the largest share of each head, over all ways to part the tail's fourth powers between it and the rest.

    Between two neighbouring ways the head has at most what the later one gives it, the rest at least what the earlier
    one leaves.
    """
    start, places = tail.start, heads.places
    inner, roots = heads.past(start, squares=True), heads.past(start)
    taken = _sums(inner.lower**2)[inner.places]
    room = np.maximum(tail.norm**2 - taken, 0.0)
    first, first_energy = most[int(np.searchsorted(places, start))], float((heads.upper[:start] ** 2).sum())
    ways = taken + room * ((np.arange(_SPLITS + 1) / _SPLITS) ** 2)[:, None]
    levels = inner.levels(ways[1:], is_theirs=True)
    head = np.minimum(most, first + roots.sums(np.sqrt(levels)))
    rest = others.least(np.minimum(first_energy + inner.sums(levels), spent), tail.norm**2 - ways[:-1])
    shares = (head / np.maximum(head + rest, _TINY)).max(axis=0)
    return np.where(places > start, shares, 1.0)


class _Heads:
    """The first k values, for some k ascending: how they come near one level."""

    def __init__(self, lower: FloatArray, upper: FloatArray, places: Array) -> None:
        self.lower, self.upper, self.places = lower, upper, places
        self._sums = {power: (_sums(lower**power), _sums(upper**power)) for power in (1, 2)}

    def past(self, start: int, *, squares: bool = False) -> _Heads:
        """Return the same without the first few values, or the squares of the others."""
        power = 2 if squares else 1
        return _Heads(self.lower[start:] ** power, self.upper[start:] ** power, np.maximum(self.places - start, 0))

    def levels(self, energy: float | FloatArray, *, is_theirs: bool = False) -> FloatArray:
        """Return the level at which the squares of the first k reach what the others leave of that energy, or all."""
        own = self._sums[2][0][self.places]
        budget = np.maximum(energy if is_theirs else energy - _suffix(self.lower**2)[self.places], own)
        low, high = np.full(budget.shape, self.lower[-1]), np.full(budget.shape, self.upper[0])
        return bisect_each(lambda level: self.sums(level, squares=True) < budget, low, high, _HALVINGS)[1]

    def sums(self, level: FloatArray, *, squares: bool = False) -> FloatArray:
        """Return what the first k add up to, or their squares do, each as near its level as both ends let it."""
        power = 2 if squares else 1
        floor, ceiling = self._sums[power]
        above = np.minimum(np.searchsorted(-self.lower, -level, side="left"), self.places)
        reached = np.minimum(np.searchsorted(-self.upper, -level, side="right"), self.places)
        found: FloatArray = floor[above] + (reached - above) * level**power + (ceiling[self.places] - ceiling[reached])
        return found

    def most_energy(self, energy: float) -> FloatArray:
        """Return the most that the squares of the first k can add up to, of that energy of all."""
        free = energy - _suffix(self.lower**2)[self.places]
        most: FloatArray = np.minimum(self._sums[2][1][self.places], np.maximum(free, 0.0))
        return most


class _Others:
    """The values past the first k, for some k: what they add up to at least."""

    def __init__(self, lower: FloatArray, upper: FloatArray, places: Array, energy: float, tail: Tail | None) -> None:
        self._energy = energy * (1.0 - _slack(lower.size))
        self._floor, self._most = _suffix(lower)[places], _suffix(upper)[places]
        self._ceiling = np.append(upper, 0.0)[places]
        self._fourth = np.full(places.size, np.inf)
        if tail is not None:
            taken = _sums(lower[tail.start :] ** 4)[np.maximum(places - tail.start, 0)]
            self._fourth = np.where(places >= tail.start, tail.norm**2 - taken, np.inf)

    def least(self, spent: FloatArray, fourth: FloatArray | None = None) -> FloatArray:
        """Return the least that they add up to where the first k hold no more energy than that.

        None is above its ceiling, and (sum s^2)^3 <= (sum s)^2 (sum s^4) (Hoelder).
        """
        left = np.maximum(self._energy - spent, 0.0)
        fourth = np.maximum(self._fourth if fourth is None else fourth, _TINY)
        with np.errstate(over="ignore"):  # of others that are zero, clipped below
            by_ceiling = left / np.maximum(self._ceiling, _TINY)
            by_fourth = left / np.sqrt(fourth / np.maximum(left, _TINY))
        either = np.maximum(by_ceiling, by_fourth) * (1.0 - _slack(self._floor.size))
        least: FloatArray = np.clip(either, self._floor, self._most)
        return least


def _concave(points: FloatArray) -> FloatArray:
    """Return the least concave sequence that is nowhere below the points."""
    corners: list[int] = []
    for place, height in enumerate(points.tolist()):
        while len(corners) > 1:
            first, second = corners[-2], corners[-1]
            if (points[second] - points[first]) * (place - first) > (height - points[first]) * (second - first):
                break
            corners.pop()
        corners.append(place)
    return np.interp(np.arange(points.size), corners, points[corners])


def _sums(values: FloatArray) -> FloatArray:
    return np.concatenate([[0.0], np.cumsum(values)])


def _suffix(values: FloatArray) -> FloatArray:
    """Return what the values past the first k add up to, shape ``(m + 1,)``."""
    return np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])


def _slack(m: int) -> float:
    """Relative, above what sums of so many terms are rounded by."""
    return (64 + 4 * m) * U
