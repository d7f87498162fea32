"""Groups of a pass on a card: formed on the host, by the threads that read the rows."""

from __future__ import annotations

import threading

import numpy as np

from rankme_stream.groups.grouped_rows import GroupedRows, SegmentGrouper
from rankme_stream.groups.partition import Partition
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import Array
from rankme_stream.passes.loop.panels import PanelWriter
from rankme_stream.passes.loop.segment import PassSpec


class _Segment:
    """Rows of a segment, of which ``left`` are still to come."""

    def __init__(self, grouper: SegmentGrouper, n_rows: int) -> None:
        self.grouper, self.left = grouper, n_rows


class GroupFeed:
    """Collects rows as they are stored, in any order and from any thread, and groups each segment that is complete.

    Faulty rows are found as in a pass on the host, whose bits the groups have.
    """

    def __init__(self, spec: PassSpec, groups: Partition) -> None:
        self._spec, self._groups = spec, groups
        self._lock, self._scratch = threading.Lock(), threading.local()
        self._segments: dict[int, _Segment] = {}
        self._grouped: dict[int, GroupedRows] = {}

    def __call__(self, start: int, stored: Array) -> None:
        """Add rows from ``start`` on.

        Raises
        ------
        NonFiniteError, ZeroRowError, MagnitudeError
            As where rows are looked at on the host; the message names the row.
        ArithmeticCheckError
            If other code gave BLAS more threads meanwhile.
        """
        grid, n_features = self._spec.plan.grid, self._spec.plan.n_features
        if not hasattr(self._scratch, "workspace"):
            self._scratch.workspace = Workspace()
        workspace: Workspace = self._scratch.workspace
        writer = PanelWriter(self._spec.source, workspace, self._spec.rules)
        for low, high in grid.panels(start, start + len(stored)):
            rows = stored[low - start : high - start, :]
            panel = workspace.room("panel", (high - low, 1 + n_features), np.float64)
            writer.write(low, rows, panel)
            self._add(low, rows, panel)

    def _add(self, row: int, stored: Array, panel: Array) -> None:
        """Add rows of one segment, and group it if no other rows of it are to come."""
        index = row // self._spec.plan.grid.segment_rows
        with self._lock:
            segment = self._segments.get(index)
            if segment is None:
                segment = self._segments[index] = self._new_segment(index)
        segment.grouper.add(row, stored, panel)
        with self._lock:
            segment.left -= len(stored)
            is_complete = segment.left == 0
        if is_complete:
            grouped = segment.grouper.group()
            blas_threads.check_one_thread(*self._rows_of(index))
            with self._lock:
                del self._segments[index]
                self._grouped[index] = grouped

    def _rows_of(self, index: int) -> tuple[int, int]:
        return self._spec.plan.rows_of(range(index, index + 1))

    def _new_segment(self, index: int) -> _Segment:
        plan, (first, last) = self._spec.plan, self._rows_of(index)
        grouper = SegmentGrouper(
            self._groups, self._spec.source.stored, (first, last), plan.n_features, Workspace(), plan.workers
        )
        return _Segment(grouper, last - first)

    def take(self, segment: int) -> GroupedRows:
        """Return the groups of a segment, all of whose rows were added; they are forgotten here."""
        with self._lock:
            return self._grouped.pop(segment)
