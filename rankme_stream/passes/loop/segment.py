"""The one loop: segment -> blocks -> panels -> accumulators."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.accumulators.nystrom.test_vectors import OrthonormalBasis
from rankme_stream.groups.grouped_rows import Division
from rankme_stream.groups.partition import Partition
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.passes.loop.block_reader import BlockReader
from rankme_stream.passes.loop.panel_feed import PanelFeed
from rankme_stream.passes.loop.panels import fill_panels
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.audit import Audit
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.passes.state.row_norms import RowNorms, rows_error, scale_rows
from rankme_stream.sources import Source


@dataclass(frozen=True)
class PassSpec:
    """What a pass reads, by which rules, into what.

    Attributes
    ----------
    make_accumulator
        Called with the width and a workspace, and ``rows_error`` for unit rows.
    normalize
        Accumulate the rows scaled to unit length as well.
    weigh
        Note how long the rows are.
    device
        Where the panels and accumulators are.
    basis
        What an earlier pass found, where the accumulators multiply by it.
    groups
        Which rows are kept apart as well; None where none are.
    """

    source: Source
    plan: Plan
    make_accumulator: Callable[..., Accumulator]
    normalize: bool = False
    missing: Literal["error", "skip", "fill"] = "error"
    nonfinite: Literal["error", "skip"] = "error"
    weigh: bool = False
    device: Device = HOST
    basis: OrthonormalBasis | None = None
    groups: Partition | None = None

    @property
    def panel_type(self) -> str:
        """float64; or the type of 16-bit rows that the device multiplies exactly, where float32 sums are asked for and
        nothing else is made of the rows.
        """
        is_fast = METHODS[self.plan.method].multiplies_stored_rows(self.plan.precision)
        is_alone, kind = not self.normalize and not self.weigh, self.source.stored
        return kind.name if is_fast and is_alone and self.device.multiplies_exactly(kind) else "float64"


class Interrupted(Exception):  # noqa: N818 - not an error: the caller asked for it
    """The pass was told to stop."""


def run_segment(
    task: PassSpec,
    blocks: BlockReader,
    segment: int,
    feed: PanelFeed,
    stop: threading.Event,
    progress: Callable[[int], None],
) -> PartialResult:
    """Read one segment and return what it came to.

    Parameters
    ----------
    feed
        Of the thread that calls.
    stop
        Looked at between slabs, runs of whole panels that are filled at once; when set, ``Interrupted`` is raised.
    progress
        Called with the number of rows after each slab, from the thread that calls.
    """
    plan = task.plan
    n_features, grid = plan.n_features, plan.grid
    first = max(plan.row_start, segment * grid.segment_rows)
    last = min(plan.row_stop, (segment + 1) * grid.segment_rows)
    accumulators = {"raw": task.make_accumulator(n_features, feed.workspace)}
    if task.normalize:
        accumulators["unit"] = task.make_accumulator(n_features, feed.workspace, rows_error=rows_error(n_features))
    audit, lengths, device = Audit(), RowNorms(), feed.workspace.device
    shape = (plan.slab_rows, n_features + 1)
    division = None
    if task.groups is not None:
        division = Division(
            task.groups, task.source.stored, first, last, n_features, feed.workspace, plan.segments_at_once
        )  # fmt: skip
    for start, end in grid.slabs(first, last, plan.slab_rows):
        if stop.is_set():
            raise Interrupted
        panels = feed.panels(list(accumulators), shape, task.panel_type)
        slabs = dict(zip(accumulators, panels, strict=True))
        for row, stored in blocks.rows(start, end):
            piece = slice(row - start, row - start + stored.shape[0])
            place = slabs["raw"][piece, :]
            found = fill_panels(task.source, row, stored, place, feed.workspace, task.missing, task.nonfinite)
            audit = audit.merge(found)
            if division is not None:
                division.take(row, stored, place)
        if task.weigh:
            lengths = lengths.merge(RowNorms.of(slabs["raw"][: end - start, :], device))
        if task.normalize:
            scale_rows(slabs["raw"][: end - start, :], slabs["unit"][: end - start, :], device)
        for low, high in grid.panels(start, end):
            for key, accumulator in accumulators.items():
                feed.update(accumulator, slabs[key][low - start : high - start, :], low)
        progress(end - start)
    feed.finish()
    return PartialResult(accumulators, audit, lengths, None if division is None else division.divided())
