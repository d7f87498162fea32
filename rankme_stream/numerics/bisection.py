"""Bisection for the point where a condition turns false: for a number, an array, or between neighbouring doubles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rankme_stream.numerics.dtypes import Array, FloatArray

HALVINGS = 200  # down to neighbouring doubles, if the ends of the interval are within a factor of 2^140


def mean(low: float, high: float) -> float:
    """Return the middle of an interval as half of the sum of its ends."""
    return (low + high) / 2.0


def from_low(low: float, high: float) -> float:
    """Return the middle of an interval as its lower end and half of its length; no sum of ends can overflow."""
    return low + (high - low) / 2.0


def bisect(
    is_below: Callable[[float], bool],
    low: float,
    high: float,
    halvings: int = HALVINGS,
    *,
    middle: Callable[[float, float], float] = from_low,
) -> tuple[float, float]:
    """Return the ends of an interval, halved, in which ``is_below`` turns from true to false."""
    for _ in range(halvings):
        point = middle(low, high)
        low, high = (point, high) if is_below(point) else (low, point)
    return low, high


def bisect_each(
    is_below: Callable[[FloatArray], Array], low: FloatArray, high: FloatArray, halvings: int
) -> tuple[FloatArray, FloatArray]:
    """Return the ends of many intervals, each halved as ``bisect`` does with its default middle."""
    for _ in range(halvings):
        point = low + (high - low) / 2.0
        below = is_below(point)
        low, high = np.where(below, point, low), np.where(below, high, point)
    return low, high


def neighbours(is_below: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Return two neighbouring doubles, not negative, between which ``is_below`` turns from true to false."""
    first, last = (int(np.float64(end).view(np.int64)) for end in (low, high))  # ordered as the doubles are
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if is_below(_double(middle)) else (first, middle)
    return _double(first), _double(last)


def _double(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))
