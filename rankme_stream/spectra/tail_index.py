"""Index of the tail of positive numbers: how fast the share of numbers above x falls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rankme_stream.numerics.dtypes import Array


@dataclass(frozen=True)
class TailIndex:
    """Index a of a tail that falls like x^-a, from the ``largest`` numbers; infinite where these are all alike.

    Moments of order a and above do not exist: below 2 there is no variance.
    """

    index: float
    largest: int


def hill(logarithms: Array) -> TailIndex:
    """Return Hill's index of some positive numbers, from the 2 sqrt(m) largest of m.

    Parameters
    ----------
    logarithms
        Natural logarithms of the numbers, shape ``(m,)``, in any order. Numbers that are zero are left out, so that
        their logarithms may be minus infinity.

    Notes
    -----
    k / sum over the k largest of ln(x / x_(k+1)), k = floor(2 sqrt(m)). Of k numbers with an exact power tail, k a over
    the index is Gamma(k), so the index is right to within 1/sqrt(k). No scale enters. O(m).

    References
    ----------
    B. M. Hill, A simple general approach to inference about the tail of a distribution, Ann. Statist. 3 (1975).
    """
    finite = logarithms[np.isfinite(logarithms)]
    largest = min(math.isqrt(4 * finite.size), finite.size - 1)
    if largest < 1:
        return TailIndex(math.inf, 0)
    place = finite.size - largest - 1
    ordered = np.partition(finite, place)
    excess = float(np.sort(ordered[place + 1 :] - ordered[place]).sum()) / largest
    return TailIndex(1.0 / excess if excess > 0.0 else math.inf, largest)
