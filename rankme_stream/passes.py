"""The one loop: segment -> blocks -> panels -> accumulators."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from rankme_stream import audit as auditing
from rankme_stream.accumulators import Accumulator, Divisible
from rankme_stream.arrays import Array, FloatArray
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
    """Consecutive rows, read by whoever starts to first and dropped when every row was used."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.unused = stop - start
        self.reading: Future[Array] | None = None


class Blocks:
    """Rows of a source, handed out in any ranges near one another; each block is read once.

    Threads of its own read, one block ahead of each that is in use where the plan has memory for it. A chunk that two
    segments share is decoded for whichever asks first and kept until both have had their rows.
    """

    def __init__(self, task: Task) -> None:
        plan = task.plan
        self._task = task
        self._lock = threading.Lock()
        self._live: deque[_Block] = deque()
        self._next = plan.row_start
        self._buffers: list[Array] = []
        self._readers = ThreadPoolExecutor(plan.segments_at_once, thread_name_prefix="rankme-read")
        self.bytes_read = 0
        bounds = task.source.bounds(plan.row_start, plan.row_stop)
        self._stops = block_stops(bounds, plan.row_start, plan.row_stop, plan.block_rows, plan.grid.segment_rows)

    def close(self) -> None:
        """Read nothing more; what is being read is waited for by nobody."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """Yield (first row, rows) pieces that cover [start, stop) in order; each row may be asked for once."""
        while start < stop:
            block, reading = self._block(start)
            stored = reading.result()
            end = min(stop, block.stop)
            yield start, stored[start - block.start : end - block.start]
            self._release(block, end - start)
            start = end

    def _block(self, row: int) -> tuple[_Block, Future[Array]]:
        """Return the block of a row, being read, and start on the one after it."""
        with self._lock:
            while self._next <= row:
                self._cut()
            block = next(block for block in self._live if block.start <= row < block.stop)
            reading = self._start(block)
            if self._task.plan.reads_ahead:
                if self._next == block.stop < self._task.plan.row_stop:
                    self._cut()
                for following in self._live:
                    if following.start == block.stop:
                        self._start(following)
            return block, reading

    def _cut(self) -> None:
        end = next(self._stops)
        self._live.append(_Block(self._next, end))
        self._next = end

    def _start(self, block: _Block) -> Future[Array]:
        if block.reading is None:
            block.reading = self._readers.submit(self._read, block.start, block.stop)
        return block.reading

    def _read(self, start: int, stop: int) -> Array:
        source = self._task.source
        rows = source.read(start, stop, self._buffer((stop - start, source.shape[1])))
        with self._lock:
            self.bytes_read += rows.nbytes
        if self._task.missing == "error":
            for first, last in source.missing(start, stop):
                raise MissingChunksError(missing_message(source, first, last))
        return rows

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
            if block.unused == 0 and block.reading is not None:
                self._live.remove(block)
                flat = block.reading.result().base
                if isinstance(flat, np.ndarray) and flat.ndim == 1 and flat.dtype == self._task.source.stored.dtype:
                    self._buffers.append(flat)


class Feed:
    """Brings panels to accumulators for one segment after another: on the caller's thread, or shared out over several.

    Parameters
    ----------
    threads
        With one, an update is done when ``update`` returns. With more, the parts of an update are shared by so many
        threads while the caller fills the next panel; each part sees the panels in order, so the bits are the same.
    """

    def __init__(self, threads: int) -> None:
        self.workspace = Workspace()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rankme-feed") if threads > 1 else None
        self._scratch = threading.local()
        self._last: dict[tuple[int, Any], Future[None]] = {}
        self._slots: list[list[Future[None]]] = [[], []] if threads > 1 else [[]]
        self._slot = 0

    def panels(self, names: Sequence[str], shape: tuple[int, int]) -> list[FloatArray]:
        """Return arrays to fill next, of which no update is under way any more."""
        self._slot = (self._slot + 1) % len(self._slots)
        for update in self._slots[self._slot]:
            update.result()
        self._slots[self._slot].clear()
        return [self.workspace.array(f"{name} {self._slot}", shape) for name in names]

    def update(self, accumulator: Accumulator, panel: FloatArray, start: int) -> None:
        """Add a panel that lies in the arrays of the last call of ``panels``."""
        if self._pool is None or not isinstance(accumulator, Divisible):
            accumulator.update(panel, start)
            return
        accumulator.count(panel)
        for part in accumulator.parts:
            before = self._last.get((id(accumulator), part))
            future = self._pool.submit(self._update_part, accumulator, part, panel, before)
            self._last[id(accumulator), part] = future
            self._slots[self._slot].append(future)

    def _update_part(self, accumulator: Divisible, part: Any, panel: FloatArray, before: Future[None] | None) -> None:
        if before is not None:
            before.result()  # started earlier, so no two threads can wait for each other
        if not hasattr(self._scratch, "workspace"):
            self._scratch.workspace = Workspace()
        accumulator.update_part(part, panel, self._scratch.workspace)

    def finish(self) -> None:
        """Wait for every update."""
        for slot in self._slots:
            for update in slot:
                update.result()
            slot.clear()
        self._last.clear()

    def close(self) -> None:
        """Start nothing more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


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
    feed: Feed,
    stop: threading.Event,
    progress: Callable[[int], None],
) -> tuple[dict[str, Accumulator], Audit]:
    """Read one segment and return its accumulators (``raw``, and ``unit`` when asked for) and audit.

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
    audit = Audit()
    shape = (plan.slab_rows, n_features + 1)
    for start, end in grid.slabs(first, last, plan.slab_rows):
        if stop.is_set():
            raise Interrupted
        scratch = feed.workspace.array("cast", (plan.slab_rows, n_features), dtype=np.int32)
        slabs = dict(zip(accumulators, feed.panels(list(accumulators), shape), strict=True))
        for row, stored in blocks.rows(start, end):
            piece = slice(row - start, row - start + len(stored))
            audit = audit.merge(_fill(task, row, stored, slabs["raw"][piece], scratch[piece]))
        if task.normalize:
            scale_rows(slabs["raw"][: end - start], slabs["unit"][: end - start])
        for low, high in grid.panels(start, end):
            for key, accumulator in accumulators.items():
                feed.update(accumulator, slabs[key][low - start : high - start], low)
        progress(end - start)
    feed.finish()
    return accumulators, audit


def _fill(task: Task, row: int, stored: Array, piece: Array, scratch: Array) -> Audit:
    """Audit stored rows and write them into their place in a panel; rows left out become zeros."""
    source = task.source
    audit = Audit()
    out: Array | None = None  # rows left out; most slabs have none, and every numpy call costs a turn at the GIL
    gaps = source.missing(row, row + len(stored))
    if gaps:
        audit = Audit(rows_missing=sum(end - start for start, end in gaps), first_missing=gaps[0][0])
        if task.missing == "skip":
            out = np.zeros(len(stored), dtype=bool)
            for start, end in gaps:
                out[start - row : end - row] = True
    bad = auditing.nonfinite_rows(stored, source.stored)
    if bad is not None and out is not None:
        bad &= ~out
    if bad is not None and bad.any():
        n_bad, first = int(bad.sum()), row + int(np.argmax(bad))
        if task.nonfinite == "error":
            raise NonFiniteError(
                f"{source.uri}: row {first:,} is not finite ({n_bad:,} such rows among rows "
                f"{row:,}-{row + len(stored) - 1:,}, where reading stopped); pass --nonfinite skip to leave them out "
                "and have them counted"
            )
        audit = audit.merge(Audit(rows_nonfinite=n_bad, first_nonfinite=first))
        out = bad if out is None else out | bad
    zeros = auditing.zero_rows(stored, source.stored)
    if out is not None:
        zeros = zeros[~out[zeros]]
    if zeros.size:
        audit = audit.merge(Audit(rows_zero=int(zeros.size), first_zero=row + int(zeros[0])))
    kept = stored if out is None else np.where(out[:, None], stored.dtype.type(0), stored)
    magnitude = auditing.largest_magnitude(kept, source.stored)
    if magnitude > LARGEST_MAGNITUDE:
        place = row + int(np.argmax((np.abs(kept) > LARGEST_MAGNITUDE).any(axis=1)))
        raise MagnitudeError(
            f"{source.uri}: row {place:,} holds values beyond 2^480, whose squares overflow; scale the embeddings by a "
            "power of two, which changes no rank"
        )
    piece[:, 0] = 1.0 if out is None else ~out
    try:
        source.stored.to_float64(kept, piece[:, 1:], scratch)
    except OverflowError as error:
        raise MagnitudeError(
            f"{source.uri}: row {row + error.args[0]:,} holds integers beyond 2^53, which float64 cannot hold exactly"
        ) from None
    return replace(audit, largest_magnitude=magnitude) if magnitude else audit
