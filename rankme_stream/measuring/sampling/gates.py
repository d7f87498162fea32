"""Gates of a look at a sample: what must hold of the rows read before an interval for all rows is stated.

Each gate returns None, or why nothing is stated. They were chosen by simulation; the comments say what for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rankme_stream.measuring.sampling.replicates import MeasuredSpread
from rankme_stream.measuring.sampling.units_read import UnitsRead
from rankme_stream.passes.planning.sample_design import ROWS_PER_FEATURE
from rankme_stream.spectra.tail_index import TailIndex

# Below it the variance of |z|^2 does not exist, hence none of the Gram matrix: samples without a giant row look narrow.
LEAST_TAIL_INDEX = 2.0
# Of 16 replicates, one alone deviates by up to 3.75 standard deviations, two alike by 2.56. Of 16 normal values one
# deviates by more than 3.3 with probability 1e-4.
LARGEST_DEVIATION = 3.3
# Largest bias of RankMe, relative to it. The bias of rows with a flat Gaussian spectrum is D/(8 n), so 8 rows per
# feature leave 1/64. A larger bias shows that neighbouring rows are so alike that fewer count; it does not fall like
# 1/n.
_LARGEST_BIAS = 1 / 48
# Smallest bias to refuse, in standard errors. Below it chance moves RankMe as much as the bias does, and refusing by
# the bias would keep the samples in which chance made it small. A direction that c rows in different replicates alone
# have gives a bias of sqrt(c) standard errors: 0.6 lets none pass.
_SMALLEST_REFUSED_BIAS = 0.6
_EVERY_ROW = "only reading every row is sure to do"


@dataclass(frozen=True)
class Withheld:
    """Reason why no interval is stated, and about how many rows would do.

    ``rows`` is None where that is not known, and infinite where no sample will do.
    """

    reason: str
    rows: float | None = None


def only_zeros(units: UnitsRead) -> Withheld | None:
    """Refuse rows without energy: other rows may have some."""
    return None if units.whole.row_norms.squares else Withheld("every row that was read is zero")


def uneven_rows(units: UnitsRead, most_rows: float) -> Withheld | None:
    """Refuse rows that weigh no more than 8 rows of equal length per feature.

    A sample takes ``most_rows`` at most, here and below: half of all, or infinitely many of a population.
    """
    effective, wanted = units.whole.row_norms.effective_rows, ROWS_PER_FEATURE * units.n_features
    if effective >= wanted:  # not nan
        return None
    few = f"the rows read carry the weight of only {effective:,.0f} rows of equal length"
    reason = f"{few}, and an interval needs {wanted:,} (8 per feature)"
    if not units.tail.index >= LEAST_TAIL_INDEX:
        return Withheld(f"{reason}; {_heavy(units.tail)}{_remedy(most_rows)}", math.inf)
    enough = _rounded_up(units.n_rows * wanted / effective)
    if enough > most_rows:
        return Withheld(f"{reason}; {_EVERY_ROW}", math.inf)
    return Withheld(f"{reason}; about {enough:,} rows would do", enough)


def empty_replicate(rows: Sequence[int]) -> Withheld | None:
    """Refuse replicates of which one has no row."""
    return None if all(rows) else Withheld("so many rows were left out, or so few are there, that a replicate has none")


def uneven_replicates(units: UnitsRead) -> Withheld | None:
    """Refuse replicates that weigh no more than half of them would if they were equal."""
    count, effective = len(units.replicates), units.effective_replicates
    if effective >= count / 2:
        return None
    return Withheld(f"the {count} replicates carry the weight of only {effective:.1f} equal ones, too few to compare")


def coarse_arithmetic(largest_value: float) -> Withheld | None:
    """Refuse a spectrum whose largest singular value is zero: there are rows, but the arithmetic lost them."""
    if largest_value:
        return None
    return Withheld("the arithmetic cannot distinguish the rows that were read from zeros")


def heavy_tail(tail: TailIndex, most_rows: float) -> Withheld | None:
    """Refuse row lengths with so heavy a tail that a few rows decide RankMe, which a sample may miss."""
    if tail.index >= LEAST_TAIL_INDEX:
        return None
    return Withheld(f"{_heavy(tail)}: a few rows that a sample misses decide RankMe{_remedy(most_rows)}", math.inf)


def seen_once(deviation: float, count: int) -> Withheld | None:
    """Refuse a sample in which one of ``count`` replicates stands alone (`largest_deviation`)."""
    if deviation <= LARGEST_DEVIATION:
        return None
    return Withheld(
        f"one of {count} replicates differs from all others by {deviation:.1f} standard deviations: what "
        "was seen once may be missing as often; more rows are needed"
    )


def large_bias(rankme: MeasuredSpread) -> Withheld | None:
    """Refuse a bias of RankMe that is large beside RankMe and beside its standard error."""
    bias, error = abs(rankme.spread.bias), rankme.spread.standard_error
    if bias <= max(_LARGEST_BIAS * rankme.value, _SMALLEST_REFUSED_BIAS * error):
        return None
    share = f"{bias / rankme.value:.0%}"
    return Withheld(f"RankMe of the rows read is biased by about {share}, too much to correct; more rows are needed")


def _heavy(tail: TailIndex) -> str:
    index = math.floor(100.0 * tail.index) / 100.0  # never shown as what is needed
    return f"the lengths of the rows have too heavy a tail (index {index:.2f}, an interval needs {LEAST_TAIL_INDEX:g})"


def _remedy(most_rows: float) -> str:
    return "" if math.isinf(most_rows) else f"; {_EVERY_ROW}"  # a population has no last row


def _rounded_up(rows: float) -> int:
    """Return a number of rows, rounded up to two digits."""
    unit: int = 10 ** max(0, math.floor(math.log10(rows)) - 1)
    return unit * math.ceil(rows / unit)
