"""The loop of a pass on the host: segment -> blocks -> panels -> accumulators."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.accumulators.nystrom.test_vectors import OrthonormalBasis
from rankme_stream.groups.grouped_rows import SegmentGrouper
from rankme_stream.groups.partition import Partition
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.passes.loop.block_reader import BlockReader
from rankme_stream.passes.loop.panel_feed import PanelFeed
from rankme_stream.passes.loop.panels import PanelWriter
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.audit import DEFAULT_RULES, Audit, Rules
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.passes.state.row_norms import RowNorms, UnitNorms, rows_error, scale_rows
from rankme_stream.passes.state.witnesses import Witnesses, witness_rows
from rankme_stream.sources import Source


@dataclass(frozen=True)
class PassSpec:
    """Source, plan and rules of a pass, and the accumulators that it fills.

    Attributes
    ----------
    make_accumulator
        Called with the width and a workspace, and ``rows_error`` for unit rows.
    normalize
        Whether rows scaled to unit length are accumulated as well.
    rules
        Treatment of faulty rows.
    device
        Device that holds the panels and accumulators.
    basis
        Basis that an earlier pass found, if the accumulators multiply by it.
    groups
        Groups to keep apart as well; None for no groups.
    """

    source: Source
    plan: Plan
    make_accumulator: Callable[..., Accumulator]
    normalize: bool = False
    rules: Rules = DEFAULT_RULES
    device: Device = HOST
    basis: OrthonormalBasis | None = None
    groups: Partition | None = None

    @property
    def panel_type(self) -> str:
        """Type of the panels: float64; or that from which float32 products are formed, if a float32 Gram is all that is
        made of the rows.
        """
        is_fast = METHODS[self.plan.method].multiplies_stored_rows(self.plan.precision)
        is_alone, kind = not self.normalize and not self.plan.unit_rows, self.source.stored
        is_as_stored = kind.decoding is None
        return self.device.panel_type(kind) if is_fast and is_alone and is_as_stored else "float64"


class Interrupted(Exception):  # noqa: N818 - not an error: the caller asked for it
    """The caller stopped the pass."""


def run_segment(
    spec: PassSpec,
    blocks: BlockReader,
    segment: int,
    feed: PanelFeed,
    stop: threading.Event,
    progress: Callable[[int], None],
) -> PartialResult:
    """Read one segment on the host and return its partial result.

    Parameters
    ----------
    feed
        Feed of the calling thread.
    stop
        Checked between slabs, which are whole panels filled together; if set, ``Interrupted`` is raised.
    progress
        Called with the number of rows after each slab, from the calling thread.

    Raises
    ------
    ArithmeticCheckError
        If other code gave BLAS more threads meanwhile.
    """
    plan, workspace = spec.plan, feed.workspace
    n_features, grid = plan.n_features, plan.grid
    first, last = plan.rows_of(range(segment, segment + 1))
    accumulators = {"raw": spec.make_accumulator(n_features, workspace)}
    if spec.normalize:
        accumulators["unit"] = spec.make_accumulator(n_features, workspace, rows_error=rows_error(n_features))
    grouper = None
    if spec.groups is not None:
        grouper = SegmentGrouper(
            spec.groups, spec.source.stored, (first, last), n_features, workspace, plan.segments_at_once
        )
    writer, audit = PanelWriter(spec.source, workspace, spec.rules), Audit()
    norms = UnitNorms(last - first, plan.unit_rows) if plan.unit_rows else None
    wanted, witnesses = witness_rows(first, last) if norms is None else [], Witnesses()
    shape = (plan.slab_rows, n_features + 1)
    for start, end in grid.slabs(first, last, plan.slab_rows):
        if stop.is_set():
            raise Interrupted
        slabs = dict(zip(accumulators, feed.panels(list(accumulators), shape, spec.panel_type), strict=True))
        for row, stored in blocks.rows(start, end):
            piece = slabs["raw"][row - start : row - start + stored.shape[0], :]
            audit = audit.merge(writer.write(row, stored, piece))
            if grouper is not None:
                grouper.add(row, stored, piece)
            witnesses = witnesses.merge(Witnesses.of(wanted, row, stored))
        if norms is not None:
            norms.add(start - first, slabs["raw"][: end - start, :])
        if spec.normalize:
            scale_rows(slabs["raw"][: end - start, :], slabs["unit"][: end - start, :])
        for low, high in grid.panels(start, end):
            for key, accumulator in accumulators.items():
                feed.update(accumulator, slabs[key][low - start : high - start, :], low)
        progress(end - start)
    feed.finish()
    blas_threads.check_one_thread(first, last)
    for accumulator in accumulators.values():
        accumulator.check(first, last)
    found = PartialResult(accumulators, audit, RowNorms(), None if grouper is None else grouper.group(), witnesses)
    return found if norms is None else replace(found, row_norms=norms.sums, unit_maxima=norms.maxima)
