"""Design of a sample: the rows it reads, and the steps in which it grows; pure functions.

A dump is usually sorted, by class, shard or time. So the sample draws **units** at random, not rows: runs of
consecutive rows, of equal size, which stay together from the drawing to the standard error. The units are small, so
that many of them are read: what differs in a small share of all units is then seen with high probability, wherever it
lies. All sets of so many units are equally likely. Spreading the units evenly, one to a chunk, say, would keep rows
apart that are alike and neighbours, and the bias of RankMe would no longer vanish with the share of rows not read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from rankme_stream.numerics import counter_rng
from rankme_stream.passes.planning.rare_units import units_needed, units_of_many

N_REPLICATES = 16  # replicates of the jackknife, to which units are dealt out
ROWS_PER_FEATURE = 8  # effective rows; with fewer the bias is not proportional to 1/n: the jackknife states nothing
MANY_ROWS = 10.0  # rows per feature of a first look that the jackknife judges: 1.25 per effective row
POPULATION_ROWS = 20.0  # rows per feature from which on the jackknife judges a population, by units of neighbours
FEW_ROWS = 1.5  # rows per feature of a first look that random-matrix theory judges, where there are no more
_LARGEST_UNIT = 256  # rows
_POPULATION_UNIT = 16  # least rows of a unit that shows how all rows vary
LEAST_UNITS = 8 * N_REPLICATES  # of them
_ANY_SHARE = 0.5


@dataclass(frozen=True)
class SampleDesign:
    """Units of some rows in random order, dealt out to replicates in turn.

    Attributes
    ----------
    row_start, row_stop
        Rows [A, B) to sample from.
    n_features
        Width D.
    unit_rows
        Rows U of a unit: unit k is rows [A + k U, A + (k + 1) U), cut to the range.
    seed
        Seed of the order.
    rare
        Share of rare units that the first look finds with a probability of 99 %.
    rows_per_feature
        Rows per feature of the first look, at least.
    in_runs
        Whether each replicate takes a run of consecutive units, for a sample of all of them: in a sorted dump, what is
        alike then lies in one replicate, and shows.
    """

    row_start: int
    row_stop: int
    n_features: int
    unit_rows: int
    seed: int
    rare: float
    rows_per_feature: float
    in_runs: bool = False

    @property
    def n_rows(self) -> int:
        """Number of rows to sample from."""
        return self.row_stop - self.row_start

    @property
    def n_units(self) -> int:
        """Number of units."""
        return -(-self.n_rows // self.unit_rows)

    @property
    def first_look(self) -> int:
        """Number of units of the smallest sample, equal in all replicates: enough rows, and units to find rare ones."""
        for_rows = math.ceil(self.rows_per_feature * self.n_features / self.unit_rows)
        wanted = max(for_rows, units_needed(self.n_units, self.rare))
        return N_REPLICATES * -(-wanted // N_REPLICATES)

    def looks(self, max_rows: int | None = None) -> Iterator[int]:
        """Yield the number of units read by each look: doubling, up to half of all, or to ``max_rows``."""
        most = self.n_units // 2 if max_rows is None else min(self.n_units, max_rows // self.unit_rows)
        most = most // N_REPLICATES * N_REPLICATES
        units = self.first_look
        while units <= most:
            yield units
            if units < most < 2 * units and max_rows is not None:
                yield most
            units *= 2

    def units(self, start: int, stop: int) -> dict[int, int]:
        """Return units ``start`` to ``stop`` - 1 of the random order, ascending, and the replicate of each."""
        drawn = islice(counter_rng.distinct(self.n_units, seed=self.seed), start, stop)
        if self.in_runs:
            return {unit: unit * N_REPLICATES // self.n_units for unit in sorted(drawn)}
        replicates = {unit: number % N_REPLICATES for number, unit in enumerate(drawn, start)}
        return dict(sorted(replicates.items()))

    def rows(self, unit: int) -> tuple[int, int]:
        """Return the rows [A, B) of a unit."""
        start = self.row_start + unit * self.unit_rows
        return start, min(self.row_stop, start + self.unit_rows)


def draw_design(
    *, rows: tuple[int, int], n_features: int, seed: int, rare: float = 0.01, max_rows: int | None = None
) -> SampleDesign:
    """Return the design of a sample.

    Parameters
    ----------
    rows
        Rows [A, B) to sample from.
    seed
        Seed of the random order; the same seed gives the same rows of the same range.
    rare
        Share of rare units to be found.
    max_rows
        Most rows that will be read; None sets no limit.

    Notes
    -----
    The rows of a unit are the largest power of two, up to 256, that divides the rows of the first look into units
    enough to find rare ones. The first look has 10 rows per feature, or 1.5 where 10 are more than half of the rows or
    than ``max_rows``.
    """
    start, stop = rows
    most = (stop - start) / 2 if max_rows is None else min(max_rows, stop - start)
    rows_per_feature = MANY_ROWS if most >= MANY_ROWS * n_features else FEW_ROWS
    unit_rows = 1
    while 2 * unit_rows * units_of_many(rare) <= rows_per_feature * n_features and unit_rows < _LARGEST_UNIT:
        unit_rows *= 2
    return SampleDesign(start, stop, n_features, unit_rows, seed, rare, rows_per_feature)


def population_design(*, rows: tuple[int, int], n_features: int, seed: int) -> SampleDesign:
    """Return the design of a sample that shows how much rows vary which are all read, as draws from their population.

    Rows that are alike and neighbours, such as copies, say less of the population than as many other rows. Units of
    few rows at random would not show it, because the sample has only one of such rows. So a unit has a power of two of
    rows near D/4, from 16 to 256, as far as there are 128 units. Below 20 rows per feature the sample has every row.
    No share of rare units has to be found: rare rows are read as well.
    """
    start, stop = rows
    if stop - start < POPULATION_ROWS * n_features:
        return replace(draw_design(rows=rows, n_features=n_features, seed=seed), in_runs=True)
    by_width = min(_LARGEST_UNIT, max(_POPULATION_UNIT, 1 << (n_features // 4 - 1).bit_length()))
    by_count = 1 << max(1, (stop - start) // LEAST_UNITS).bit_length() - 1
    return SampleDesign(start, stop, n_features, min(by_width, by_count), seed, _ANY_SHARE, MANY_ROWS)
