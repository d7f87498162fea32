"""What a random sample of units excludes: units unlike all that were read, exactly, drawn without replacement.

If K of M units differ from all others and m are drawn at random, none of the K is drawn with probability
C(M - K, m) / C(M, m), which is at most (1 - K/M)^m, wherever they lie.
"""

from __future__ import annotations

import math
from bisect import bisect_left

DESIGN_MISS = 0.01  # probability with which the first look may miss the share that a sample is asked to find
_MANY = 2.0**62  # units, more than any dump has
STATED_MISS = 0.05  # probability with which the share that a result states may have been missed


def log_miss(n_units: int, n_rare: float, n_read: int) -> float:
    """Return the logarithm of the probability that none of ``n_rare`` units is among ``n_read`` drawn of all."""
    if n_rare + n_read > n_units:
        return -math.inf
    return (
        math.lgamma(n_units - n_rare + 1)
        + math.lgamma(n_units - n_read + 1)
        - math.lgamma(n_units - n_rare - n_read + 1)
        - math.lgamma(n_units + 1)
    )


def units_needed(n_units: int, share: float, miss: float = DESIGN_MISS) -> int:
    """Return the fewest units to read, so that a share of rare units is missed with probability ``miss`` at most."""
    n_rare = max(1, math.ceil(share * n_units - 1e-9))
    return 1 + bisect_left(
        range(1, n_units), True, key=lambda n_read: log_miss(n_units, n_rare, n_read) <= math.log(miss)
    )


def share_not_excluded(n_units: int | None, n_read: int, miss: float = STATED_MISS) -> float:
    """Return the smallest share of rare units that is missed with probability ``miss`` at most; 0 if all are read.

    ``n_units`` is None for infinitely many.
    """
    if n_units is None:
        return -math.expm1(math.log(miss) / n_read)
    if n_read >= n_units:
        return 0.0
    n_rare = 1 + bisect_left(
        range(1, n_units), True, key=lambda n_rare: log_miss(n_units, n_rare, n_read) <= math.log(miss)
    )
    return n_rare / n_units


def units_of_many(share: float, miss: float = DESIGN_MISS) -> int:
    """Return the units to read of infinitely many, so that a share is missed with probability ``miss`` at most."""
    return math.ceil(min(_MANY, math.log(miss) / math.log1p(-share)))
