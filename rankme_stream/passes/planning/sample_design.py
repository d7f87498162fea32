"""Which rows a sample reads, and in what steps it grows; pure.

A dump is sorted more often than not, by class, shard or time, so what is drawn at random is not rows but **units**:
runs of consecutive rows, of equal size, which stay together from the drawing to the standard error.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from rankme_stream.numerics import counter_rng
from rankme_stream.passes.planning.block_layout import BlockRange, largest_unit

N_GROUPS = 16  # of units: the replicates of the jackknife
ROWS_A_FEATURE = 8  # effective rows; with fewer the bias is not proportional to 1/n, and no interval is stated
_UNEVEN = 1.25  # rows an effective row that the first look allows for
DECODED_AT_MOST = 16  # rows decoded a row used, where units lie in chunks of their own
_UNIT_ROWS = (16, 256)  # the smallest and largest unit that the width alone asks for: a quarter of it
_UNITS_AT_LEAST = 8 * N_GROUPS  # of a dump, where units of a huge chunk would leave fewer


@dataclass(frozen=True)
class SampleDesign:
    """Units of some rows in random order, dealt out to groups in turn.

    Attributes
    ----------
    row_start, row_stop
        Rows [A, B) that are sampled from.
    n_features
        Width D.
    unit_rows
        Unit k is rows [k U, (k+1) U), cut to the range.
    seed
        Of the order.
    """

    row_start: int
    row_stop: int
    n_features: int
    unit_rows: int
    seed: int

    @property
    def n_units(self) -> int:
        """How many units there are."""
        return len(self._indices)

    @property
    def _indices(self) -> range:
        return range(self.row_start // self.unit_rows, -(-self.row_stop // self.unit_rows))

    @property
    def first_look(self) -> int:
        """Units of the smallest sample: as many in each group, and 10 D rows or more."""
        wanted = int(_UNEVEN * ROWS_A_FEATURE * self.n_features)
        return N_GROUPS * -(-wanted // (N_GROUPS * self.unit_rows))

    def looks(self, max_rows: int | None = None) -> Iterator[int]:
        """Yield the units read by each look: doubling, up to half of all, or to ``max_rows``."""
        most = self.n_units // 2 if max_rows is None else min(self.n_units, max_rows // self.unit_rows)
        most = most // N_GROUPS * N_GROUPS
        units = self.first_look
        while units <= most:
            yield units
            if units < most < 2 * units and max_rows is not None:
                yield most
            units *= 2

    def units(self, start: int, stop: int) -> dict[int, int]:
        """Return the units at places [start, stop) of the random order, ascending, and the group of each."""
        drawn = islice(counter_rng.distinct(self.n_units, seed=self.seed), start, stop)
        found = {self._indices[place]: number % N_GROUPS for number, place in enumerate(drawn, start)}
        return dict(sorted(found.items()))

    def rows(self, unit: int) -> tuple[int, int]:
        """Return the rows [A, B) of a unit."""
        return max(self.row_start, unit * self.unit_rows), min(self.row_stop, (unit + 1) * self.unit_rows)

    def n_rows(self, units: Iterable[int]) -> int:
        """Return how many rows some units hold."""
        return sum(stop - start for start, stop in map(self.rows, units))

    def cuts(self, units: Sequence[int], bounds: Sequence[int], block_rows: int) -> Iterator[BlockRange]:
        """Yield blocks that hold some units, ascending: units of one chunk are read together, so it is decoded once."""
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

    def rows_decoded(self, cuts: Iterable[BlockRange], bounds: Sequence[int]) -> int:
        """Return how many rows the chunks of some blocks hold: what is decoded for them."""
        return sum(
            _edge_after(cut.stop, bounds, self.row_stop) - _edge_before(cut.start, bounds, self.row_start)
            for cut in cuts
        )


def draw_design(*, rows: tuple[int, int], n_features: int, bounds: Sequence[int], seed: int) -> SampleDesign:
    """Return the design of a sample.

    Parameters
    ----------
    rows
        Rows [A, B) to sample from.
    bounds
        Natural row offsets strictly inside them.
    seed
        Of the random order; the same seed gives the same rows for the same bounds.

    Notes
    -----
    A unit is a power of two of rows near D/4, 16 to 256, and at least a sixteenth of a chunk, so that no more than 16
    times the rows used are decoded (32 where a unit straddles two chunks). Where that would leave fewer than 128
    units in all, units are smaller and more is decoded.
    """
    start, stop = rows
    least, most = _UNIT_ROWS
    by_width = min(most, max(least, _power_of_two(n_features // 4)))
    by_chunk = _power_of_two(-(-largest_unit(bounds, start, stop) // DECODED_AT_MOST))
    by_count = _power_of_two((stop - start) // _UNITS_AT_LEAST + 1) // 2
    return SampleDesign(start, stop, n_features, max(by_width, min(by_chunk, by_count)), seed)


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below a number."""
    return 1 << max(0, number - 1).bit_length()


def _edge_before(row: int, bounds: Sequence[int], first: int) -> int:
    place = bisect_right(bounds, row)
    return bounds[place - 1] if place else first


def _edge_after(row: int, bounds: Sequence[int], last: int) -> int:
    place = bisect_right(bounds, row - 1)
    return bounds[place] if place < len(bounds) else last


def _share_a_chunk(stop: int, start: int, bounds: Sequence[int]) -> bool:
    """Whether the row before ``stop`` and the row ``start`` lie between the same bounds, or next to each other."""
    return stop == start or bisect_right(bounds, stop - 1) == bisect_right(bounds, start)
