"""Singular values of which a floor, a ceiling and the energy are known: their levels, their heads, what they majorise.

A sketch knows less of each value than a Gram and more of all together: the k-th lies between ``lower[k]`` and
``upper[k]``, and the squares of all add up to no more than the energy. Everything here is pure and O(m log m).
"""

from __future__ import annotations

import numpy as np

from rankme_stream.arrays import FloatArray

_HALVINGS = 80  # of the range of levels: below the spacing of doubles


def levelled(lower: FloatArray, upper: FloatArray, total: float, *, squares: bool = False) -> FloatArray:
    """Return ``clip(t, lower, upper)`` for the least level t at which the sum (of the squares) reaches ``total``."""
    low, high = float(lower[-1]), float(upper[0])
    for _ in range(_HALVINGS):
        middle = low + (high - low) / 2.0
        values = np.clip(middle, lower, upper)
        if float((values * values if squares else values).sum()) < total:
            low = middle
        else:
            high = middle
    reached: FloatArray = np.clip(high, lower, upper)
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
    heads, _ = _head_levels(lower, most, energy)
    return np.maximum(heads[1:], lower)


def largest_heads(lower: FloatArray, upper: FloatArray, energy: float) -> FloatArray:
    """Return, for each k from 0 to m, the most that the first k values can add up to, shape ``(m + 1,)``.

    Those values take all of the energy that the others can do without, and come as near one level as both ends let
    them: a sum of roots is largest for what they have in common.
    """
    floor, ceiling = _sums(lower), _sums(upper)
    level, (above, reached) = _head_levels(lower, upper, energy)
    most: FloatArray = floor[above] + (reached - above) * level + (ceiling - ceiling[reached])
    return most


def _head_levels(
    lower: FloatArray, upper: FloatArray, energy: float
) -> tuple[FloatArray, tuple[FloatArray, FloatArray]]:
    """Return the level of the first k values for each k, and how many of them are above it and how many reach it."""
    m = lower.size
    k = np.arange(m + 1)
    squares = lower * lower
    floor_energy, ceiling_energy = _sums(squares), _sums(upper * upper)
    needed = np.concatenate([np.cumsum(squares[::-1])[::-1], [0.0]])  # by those after the first k
    budget = np.maximum(energy - needed, floor_energy)
    low, high = np.full(m + 1, lower[-1]), np.full(m + 1, upper[0])

    def places(level: FloatArray) -> tuple[FloatArray, FloatArray]:
        above = np.searchsorted(-lower, -level, side="left")
        reached = np.searchsorted(-upper, -level, side="right")
        return np.minimum(above, k), np.minimum(reached, k)

    for _ in range(_HALVINGS):
        middle = low + (high - low) / 2.0
        above, reached = places(middle)
        spent = floor_energy[above] + (reached - above) * middle**2 + (ceiling_energy - ceiling_energy[reached])
        is_short = spent < budget
        low, high = np.where(is_short, middle, low), np.where(is_short, high, middle)
    return high, places(high)


def majorant(lower: FloatArray, upper: FloatArray, energy: float) -> tuple[FloatArray, tuple[float, float]]:
    """Return shares, descending and of sum one, that majorise those of every vector allowed; and the ends of its sum.

    The first k values hold at most the share U_k / (U_k + L_k): U_k is the most that they can add up to, L_k the least
    that the others can. The least concave function above those points has the shares as its steps, which descend; their
    partial sums are no less than any vector's, so a Schur-concave function of shares is nowhere less.
    """
    heads = largest_heads(lower, upper, energy)
    tails = np.concatenate([np.cumsum(lower[::-1])[::-1], [0.0]])
    heads[0] = 0.0
    points = np.maximum.accumulate(heads / np.maximum(heads + tails, np.finfo(float).tiny))
    points[-1] = 1.0
    return np.diff(_concave(points)), (float(tails[0]), float(heads[-1]))


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
