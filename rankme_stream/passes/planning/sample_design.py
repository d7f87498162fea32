"""Design of a sample: the rows it reads, and the steps in which it grows; pure functions.

A dump is usually sorted, by class, shard or time. So the sample draws **units** at random, not rows: runs of
consecutive rows, of equal size, which stay together from the drawing to the standard error.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from rankme_stream.numerics import counter_rng
from rankme_stream.passes.planning.block_layout import BlockRange, largest_unit

N_REPLICATES = 16  # replicates of the jackknife, to which units are dealt out
ROWS_PER_FEATURE = 8  # effective rows; with fewer the bias is not proportional to 1/n, and no interval is stated
_UNEVENNESS = 1.25  # rows per effective row that the first look allows for
MOST_DECODED = 16  # rows decoded per row used, if every unit lies in a chunk of its own
_UNIT_ROWS = (16, 256)  # limits of a quarter of the width, the size of a unit before chunks are considered
_LEAST_UNITS = 8 * N_REPLICATES  # even if huge chunks would give fewer


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
        Rows U of a unit: unit k is rows [k U, (k+1) U), cut to the range.
    seed
        Seed of the order.
    """

    row_start: int
    row_stop: int
    n_features: int
    unit_rows: int
    seed: int

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self._indices)

    @property
    def _indices(self) -> range:
        return range(self.row_start // self.unit_rows, -(-self.row_stop // self.unit_rows))

    @property
    def first_look(self) -> int:
        """Number of units of the smallest sample: equal in all replicates, with 10 D rows or more."""
        wanted = int(_UNEVENNESS * ROWS_PER_FEATURE * self.n_features)
        return N_REPLICATES * -(-wanted // (N_REPLICATES * self.unit_rows))

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
        replicates = {self._indices[index]: number % N_REPLICATES for number, index in enumerate(drawn, start)}
        return dict(sorted(replicates.items()))

    def rows(self, unit: int) -> tuple[int, int]:
        """Return the rows [A, B) of a unit."""
        return max(self.row_start, unit * self.unit_rows), min(self.row_stop, (unit + 1) * self.unit_rows)

    def n_rows(self, units: Iterable[int]) -> int:
        """Return the number of rows in some units."""
        return sum(stop - start for start, stop in map(self.rows, units))

    def block_ranges(self, units: Sequence[int], bounds: Sequence[int], block_rows: int) -> Iterator[BlockRange]:
        """Yield blocks that hold some units, ascending; units of one chunk share a block, so it is decoded once."""
        block: BlockRange | None = None
        for start, stop in map(self.rows, units):
            if block is not None and stop - block.start <= block_rows and _share_a_chunk(block.stop, start, bounds):
                block = BlockRange(block.start, stop, block.n_used + stop - start)
                continue
            if block is not None:
                yield block
            block = BlockRange(start, stop, stop - start)
        if block is not None:
            yield block

    def rows_decoded(self, blocks: Iterable[BlockRange], bounds: Sequence[int]) -> int:
        """Return the number of rows in the chunks of some blocks, all of which are decoded."""
        return sum(
            _edge_after(block.stop, bounds, self.row_stop) - _edge_before(block.start, bounds, self.row_start)
            for block in blocks
        )


def draw_design(*, rows: tuple[int, int], n_features: int, bounds: Sequence[int], seed: int) -> SampleDesign:
    """Return the design of a sample.

    Parameters
    ----------
    rows
        Rows [A, B) to sample from.
    bounds
        Natural row offsets strictly inside ``rows``, such as the ends of chunks.
    seed
        Seed of the random order; the same seed gives the same rows for the same bounds.

    Notes
    -----
    The rows of a unit are a power of two near D/4, from 16 to 256, and at least a sixteenth of a chunk, so that at most
    16 times the rows used are decoded (32 if a unit straddles two chunks). If that gives fewer than 128 units in all,
    units are smaller and more is decoded.
    """
    start, stop = rows
    least, most = _UNIT_ROWS
    by_width = min(most, max(least, _power_of_two(n_features // 4)))
    by_chunk = _power_of_two(-(-largest_unit(bounds, start, stop) // MOST_DECODED))
    by_count = _power_of_two((stop - start) // _LEAST_UNITS + 1) // 2
    return SampleDesign(start, stop, n_features, max(by_width, min(by_chunk, by_count)), seed)


def _power_of_two(number: int) -> int:
    """Return the smallest power of two of at least a number."""
    return 1 << max(0, number - 1).bit_length()


def _edge_before(row: int, bounds: Sequence[int], first: int) -> int:
    index = bisect_right(bounds, row)
    return bounds[index - 1] if index else first


def _edge_after(row: int, bounds: Sequence[int], last: int) -> int:
    index = bisect_right(bounds, row - 1)
    return bounds[index] if index < len(bounds) else last


def _share_a_chunk(stop: int, start: int, bounds: Sequence[int]) -> bool:
    """Return whether row ``stop`` - 1 and row ``start`` lie between the same bounds, or are neighbours."""
    return stop == start or bisect_right(bounds, stop - 1) == bisect_right(bounds, start)
