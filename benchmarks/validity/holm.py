"""Cells of a table whose intervals are shown to hold less often than they should: exact test, Holm over all cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy.special import bdtr

HOLDS = 0.94  # of intervals at 95 %; a cell fails if its coverage is shown to be lower
SIGNIFICANCE = 0.05  # of the tests of all cells together


def p_value(held: int, trials: int) -> float:
    """Return the probability that so few or fewer of the intervals hold if 94 % of all do; 1 if there are none."""
    return float(bdtr(held, trials, HOLDS)) if trials else 1.0


def rejected(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells, with the p-values ``p``, that Holm's step-down test over all of them rejects."""
    ordered = sorted(cells, key=lambda cell: float(cell["p"]))
    bad = []
    for number, cell in enumerate(ordered):
        if cell["p"] > SIGNIFICANCE / (len(ordered) - number):
            break
        bad.append(cell)
    return bad
