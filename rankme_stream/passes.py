"""The one loop: segment -> blocks -> panels -> accumulators."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rankme_stream import audit as auditing
from rankme_stream.accumulators import Accumulator
from rankme_stream.arrays import Array
from rankme_stream.audit import Audit
from rankme_stream.devices.host import Workspace
from rankme_stream.errors import MagnitudeError, MissingChunksError, NonFiniteError
from rankme_stream.planning import Plan, block_stops
from rankme_stream.sources import Source
from rankme_stream.unit_rows import rows_error, scale_rows

LARGEST_MAGNITUDE = 2.0**480  # its square times 2^64 rows and features stays below the end of float64


@dataclass(frozen=True)
class Task:
    """What a pass reads, by which rules, into what.

    Attributes
    ----------
    make_accumulator
        Called with the width and a workspace, and ``rows_error`` for unit rows.
    normalize
        Accumulate the rows scaled to unit length as well.
    """

    source: Source
    plan: Plan
    make_accumulator: Callable[..., Accumulator]
    normalize: bool = False
    missing: Literal["error", "skip", "fill"] = "error"
    nonfinite: Literal["error", "skip"] = "error"


class Interrupted(Exception):  # noqa: N818 - not an error: the caller asked for it
    """The pass was told to stop."""


class _Block:
    """Consecutive rows, loaded by the first thread that needs them and dropped when every row was used."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.unused = stop - start
        self.lock = threading.Lock()
        self.rows: Array | None = None


class Blocks:
    """Rows of a source, handed out in any ranges near one another; each block is read once.

    A chunk that two segments share is decoded by whichever asks first and kept until both have had their rows.
    """

    def __init__(self, task: Task) -> None:
        plan = task.plan
        self._task = task
        self._lock = threading.Lock()
        self._live: deque[_Block] = deque()
        self._next = plan.row_start
        self._buffers: list[Array] = []
        self.bytes_read = 0
        bounds = task.source.bounds(plan.row_start, plan.row_stop)
        self._stops = block_stops(bounds, plan.row_start, plan.row_stop, plan.block_rows, plan.grid.segment_rows)

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """Yield (first row, rows) pieces that cover [start, stop) in order; each row may be asked for once."""
        while start < stop:
            block = self._block(start)
            stored = self._load(block)
            end = min(stop, block.stop)
            yield start, stored[start - block.start : end - block.start]
            self._release(block, end - start)
            start = end

    def _block(self, row: int) -> _Block:
        with self._lock:
            while self._next <= row:
                end = next(self._stops)
                self._live.append(_Block(self._next, end))
                self._next = end
            return next(block for block in self._live if block.start <= row < block.stop)

    def _load(self, block: _Block) -> Array:
        with block.lock:
            if block.rows is None:
                source = self._task.source
                shape = (block.stop - block.start, source.shape[1])
                block.rows = source.read(block.start, block.stop, self._buffer(shape))
                with self._lock:
                    self.bytes_read += block.rows.nbytes
                self._refuse_missing(block)
            return block.rows

    def _refuse_missing(self, block: _Block) -> None:
        if self._task.missing != "error":
            return
        for start, stop in self._task.source.missing(block.start, block.stop):
            raise MissingChunksError(missing_message(self._task.source, start, stop))

    def _buffer(self, shape: tuple[int, int]) -> Array:
        with self._lock:
            for place, buffer in enumerate(self._buffers):
                if buffer.size >= shape[0] * shape[1]:
                    return self._buffers.pop(place)[: shape[0] * shape[1]].reshape(shape)
            self._buffers.clear()
        return np.empty(shape[0] * shape[1], dtype=self._task.source.stored.dtype).reshape(shape)

    def _release(self, block: _Block, n_rows: int) -> None:
        with self._lock:
            block.unused -= n_rows
            if block.unused == 0:
                self._live.remove(block)
                flat = block.rows.base if block.rows is not None else None
                if isinstance(flat, np.ndarray) and flat.ndim == 1 and flat.dtype == self._task.source.stored.dtype:
                    self._buffers.append(flat)


def missing_message(source: Source, start: int, stop: int) -> str:
    """Say which chunks are missing and what to do."""
    return (
        f"{source.uri}: chunk {source.first_missing} (rows {start:,}-{stop - 1:,}) is missing, "
        f"{source.chunks_missing:,} in all; write them, or pass --missing skip to leave their rows out or "
        "--missing fill to take the fill value"
    )


def run_segment(
    task: Task,
    blocks: Blocks,
    segment: int,
    workspace: Workspace,
    stop: threading.Event,
    progress: Callable[[int], None],
) -> tuple[dict[str, Accumulator], Audit]:
    """Read one segment and return its accumulators (``raw``, and ``unit`` when asked for) and audit.

    Parameters
    ----------
    workspace
        Scratch of the thread that calls.
    stop
        Looked at between panels; when set, ``Interrupted`` is raised.
    progress
        Called with the number of rows after each panel, from the thread that calls.
    """
    plan = task.plan
    n_features = plan.n_features
    first = max(plan.row_start, segment * plan.grid.segment_rows)
    last = min(plan.row_stop, (segment + 1) * plan.grid.segment_rows)
    accumulators = {"raw": task.make_accumulator(n_features, workspace)}
    if task.normalize:
        accumulators["unit"] = task.make_accumulator(n_features, workspace, rows_error=rows_error(n_features))
    audit = Audit()
    buffer = workspace.array("panel", (plan.grid.panel_rows, n_features + 1))
    for start, end in plan.grid.panels(first, last):
        if stop.is_set():
            raise Interrupted
        panel = buffer[: end - start]
        for row, stored in blocks.rows(start, end):
            piece = panel[row - start : row - start + len(stored)]
            audit = audit.merge(_fill(task, row, stored, piece))
        accumulators["raw"].update(panel, start)
        if task.normalize:
            scaled = workspace.array("unit_panel", buffer.shape)[: end - start]
            scale_rows(panel, scaled)
            accumulators["unit"].update(scaled, start)
        progress(end - start)
    return accumulators, audit


def _fill(task: Task, row: int, stored: Array, piece: Array) -> Audit:
    """Audit stored rows and write them into their place in a panel; rows left out become zeros."""
    source = task.source
    out = np.zeros(len(stored), dtype=bool)
    audit = Audit()
    gaps = source.missing(row, row + len(stored))
    if gaps:
        audit = Audit(rows_missing=sum(end - start for start, end in gaps), first_missing=gaps[0][0])
        if task.missing == "skip":
            for start, end in gaps:
                out[start - row : end - row] = True
    bad = auditing.nonfinite_rows(stored, source.stored) & ~out
    n_bad = int(bad.sum())
    if n_bad:
        first = row + int(np.argmax(bad))
        if task.nonfinite == "error":
            raise NonFiniteError(
                f"{source.uri}: row {first:,} is not finite ({n_bad:,} such rows among rows "
                f"{row:,}-{row + len(stored) - 1:,}, where reading stopped); pass --nonfinite skip to leave them out "
                "and have them counted"
            )
        audit = audit.merge(Audit(rows_nonfinite=n_bad, first_nonfinite=first))
        out |= bad
    zeros = auditing.zero_rows(stored, source.stored)
    zeros = zeros[~out[zeros]]
    if zeros.size:
        audit = audit.merge(Audit(rows_zero=int(zeros.size), first_zero=row + int(zeros[0])))
    kept = stored if not out.any() else np.where(out[:, None], stored.dtype.type(0), stored)
    magnitude = auditing.largest_magnitude(kept, source.stored)
    if magnitude > LARGEST_MAGNITUDE:
        place = row + int(np.argmax((np.abs(kept) > LARGEST_MAGNITUDE).any(axis=1)))
        raise MagnitudeError(
            f"{source.uri}: row {place:,} holds values beyond 2^480, whose squares overflow; scale the embeddings by a "
            "power of two, which changes no rank"
        )
    piece[:, 0] = ~out
    try:
        source.stored.to_float64(kept, piece[:, 1:])
    except OverflowError as error:
        raise MagnitudeError(
            f"{source.uri}: row {row + error.args[0]:,} holds integers beyond 2^53, which float64 cannot hold exactly"
        ) from None
    return replace(audit, largest_magnitude=magnitude)
