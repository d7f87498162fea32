"""What a pass has to do, and how: its accumulators, the rows that it reads, the card, its threads and blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from rankme_stream.accumulators.method import Arithmetic, Method, Size
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.groups.partition import Partition
from rankme_stream.passes.planning.block_layout import largest_unit
from rankme_stream.passes.planning.card_layout import slab_panels, slots
from rankme_stream.passes.planning.grid import Grid, grid_for

_SLAB_VALUES = 2**19  # audited and cast at once: enough to make calls cheap, and their 4 MiB stay in the cache


class SampleUnits(NamedTuple):
    """Units of a sample: rows per unit, number of replicates, most rows of a replicate in a batch, rows of the first
    look, rows that stay with the sample, whether the replicates can have rows enough to be compared, and features of
    the widest prefix that is scored as well, 0 if none is.
    """

    unit_rows: int
    n_replicates: int
    segment_rows: int
    first_look_rows: int
    kept_rows: int
    is_compared: bool
    prefix_features: int


@dataclass(frozen=True)
class Workload:
    """Accumulators that a pass fills, and rows that it keeps.

    Attributes
    ----------
    size
        Width of the rows, and size of the sketch.
    normalize
        Whether rows scaled to unit length are accumulated as well.
    pass_number
        Number of the pass, from 0, for a sketch that makes several.
    has_checkpoint
        Whether a state file is kept; the partial results that it is written from stay in memory meanwhile.
    groups, kept_itemsize
        Partition of the rows into groups, and bytes of a value in the rows that are kept.
    sample
        Units to read; None to read every row.
    is_on_card
        Whether a card computes.
    """

    arithmetic: Arithmetic
    size: Size
    normalize: bool = False
    seed: int = 0
    pass_number: int = 0
    has_checkpoint: bool = False
    groups: Partition | None = None
    kept_itemsize: int = 8
    sample: SampleUnits | None = None
    is_on_card: bool = False

    @property
    def method(self) -> Method:
        """Method of the arithmetic, with its costs."""
        return METHODS[self.arithmetic.method]

    @cached_property
    def grid(self) -> Grid:
        """Panels and segments; the segments of a sample are those of a batch, one for each replicate."""
        grid = grid_for(self.arithmetic, self.size)
        if self.sample is None:
            return grid
        return Grid(min(grid.panel_rows, self.sample.segment_rows), self.sample.segment_rows)

    def n_segments(self, rows: tuple[int, int]) -> int:
        """Return the number of segments of rows [A, B), or of a batch of a sample."""
        return len(self.grid.segments(*rows)) if self.sample is None else self.sample.n_replicates

    @property
    def slab_rows(self) -> int:
        """Number of rows in a slab: whole panels that are audited and cast at once."""
        grid = self.grid
        if self.is_on_card:
            precision = self.arithmetic.precision
            return grid.panel_rows * slab_panels(grid.panel_rows, self.size.n_features, grid.segment_rows, precision)
        rows = min(self.grid.segment_rows, _SLAB_VALUES // self.size.width)
        return self.grid.panel_rows * max(1, rows // self.grid.panel_rows)

    @property
    def slab_bytes(self) -> int:
        """Bytes of a slab of panels in float64."""
        return 8 * self.slab_rows * self.size.width

    @property
    def state_bytes(self) -> int:
        """Bytes of an accumulator on the host."""
        return self.method.state_bytes(self.size)

    @property
    def packed_bytes(self) -> int:
        """Bytes of an accumulator in a file."""
        return self.method.packed_bytes(self.size)

    @property
    def n_replicates(self) -> int:
        """Number of replicates of a sample, each with an accumulator of its own; 0 without a sample."""
        return 0 if self.sample is None else self.sample.n_replicates

    @property
    def n_matrices(self) -> int:
        """Number of accumulators for the same rows: unit rows have one of their own."""
        return 1 + self.normalize


@dataclass(frozen=True)
class RowLayout:
    """Storage of the rows of a pass.

    Attributes
    ----------
    rows
        Rows [A, B).
    itemsize
        Bytes of a stored value.
    bounds
        Natural row offsets strictly inside ``rows``.
    read_memory
        Returns the peak bytes that reading a number of consecutive rows takes, result included.
    n_stored
        Rows that are stored in all; 0 if that is not known.
    """

    rows: tuple[int, int]
    itemsize: int
    bounds: Sequence[int]
    read_memory: Callable[[int], int]
    n_stored: int = 0

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.rows[1] - self.rows[0]

    @cached_property
    def largest_unit(self) -> int:
        """Largest number of rows between neighbouring bounds."""
        return largest_unit(self.bounds, *self.rows)


class CardLimits(NamedTuple):
    """What the plan of a pass must know of the card that computes.

    Attributes
    ----------
    free_bytes
        Free memory of the card; 0 if unknown.
    has_host
        Whether partial results are merged, and spectra solved, on the host, as on a cluster.
    itemsize
        Bytes of a value as it travels to the card; 0 for rows that lie there.
    """

    free_bytes: int
    has_host: bool
    itemsize: int = 8


class Concurrency(NamedTuple):
    """Threads of a pass, the segments that they run at once, and the blocks that they read."""

    workers: int
    segments_at_once: int
    reads_ahead: bool
    block_rows: int

    @property
    def n_slots(self) -> int:
        """Number of blocks that are read or copied to a card at once."""
        return slots(reads_ahead=self.reads_ahead)
