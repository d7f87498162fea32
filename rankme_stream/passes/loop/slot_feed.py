"""Rows on a card, in order: read into slots of pinned memory and copied from there, or where they lie already.

One thread calls these classes and queues all work of the card. Three things run at once: threads of the host fill
slots, one stream copies filled slots, and one stream computes. Each slot has memory on the host and a buffer on the
card, and two points in the work of the card say when these may be written again.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, cast

import numpy as np

from rankme_stream.errors import MissingChunksError
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices.card import Card, Event, Stream
from rankme_stream.numerics.dtypes import Array
from rankme_stream.passes.loop.block_reader import missing_message
from rankme_stream.passes.loop.row_faults import RowFaults
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning.block_layout import BlockRange
from rankme_stream.passes.planning.card_layout import PIECE_BYTES
from rankme_stream.sources import ArraySource

Observer = Callable[[int, Array], None]


class _Slot:
    """Memory of the host and a buffer on the card for one block.

    Attributes
    ----------
    memory
        Pinned memory; None where the rows lie in pinned memory already.
    copied
        Point from which on the memory may be written again; None before its first copy.
    used
        Point from which on the buffer may be written again; None before its first use.
    """

    def __init__(self, memory: Array | None, buffer: Any) -> None:
        self.memory, self.buffer = memory, buffer
        self.copied: Event | None = None
        self.used: Event | None = None


class _Block:
    """Consecutive rows in a slot, and the reads that fill it."""

    def __init__(self, block_range: BlockRange, slot: _Slot, rows: Array, pieces: list[Future[None]]) -> None:
        self.start, self.stop = block_range
        self.unused = self.stop - self.start
        self.slot, self.rows, self.pieces = slot, rows, pieces


class SlotFeed:
    """Rows of a source of the host, read ahead into slots and copied to a card.

    Parameters
    ----------
    spec
        Source, plan, rules and card of the pass.
    computing
        Stream that uses the rows.
    block_ranges
        Blocks in row order; each is dropped when its rows were used.
    observers
        Each is called with the first row and the rows as they are stored, piece by piece in any order, by the threads
        that read.

    Attributes
    ----------
    kind
        Type in which the rows travel.
    bytes_read
        Bytes decoded so far.
    """

    def __init__(
        self, spec: PassSpec, computing: Stream, block_ranges: Iterable[BlockRange], observers: Sequence[Observer] = ()
    ) -> None:
        self._source, self._plan, self._observers = spec.source, spec.plan, observers
        self._card, self._computing = cast(Card, spec.device), computing
        self._copying = self._card.stream()
        self._faults, self._refuse_missing = RowFaults(spec.source, spec.rules), spec.rules.missing == "error"
        self._block_ranges = iter(block_ranges)
        self.kind = self._card.taken_as(spec.source.stored)
        self._is_as_stored = self.kind == spec.source.stored
        self._lent = self._pinned_rows()
        self._free: deque[_Slot | None] = deque([None] * spec.plan.n_slots)  # None: not allocated yet
        self._filling: deque[_Block] = deque()
        self._current: _Block | None = None
        self._threads = blas_threads.threads(spec.plan.workers, "rankme-read")
        self._lock = threading.Lock()
        self.bytes_read = 0

    def _pinned_rows(self) -> ArraySource | None:
        """Return the source if its rows lie in pinned memory as they travel: nothing need be copied on the host."""
        source = self._source
        if not self._is_as_stored or self._observers or not isinstance(source, ArraySource) or not source.is_view:
            return None
        return source if self._card.is_pinned(source.read(self._plan.row_start, self._plan.row_stop)) else None

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """Yield (first row, rows on the card) pieces that cover [start, stop) in order; ranges must ascend.

        Work that uses a piece must be queued on the computing stream before the next piece is asked for.
        """
        while start < stop:
            block = self._block(start)
            end = min(stop, block.stop)
            yield start, block.slot.buffer[start - block.start : end - block.start, :]
            block.unused -= end - start
            if block.unused == 0:
                self._release(block)
            start = end

    def _block(self, row: int) -> _Block:
        """Return the block of a row, whose copy the computing stream waits for."""
        if self._current is None:
            self._fill_slots()
            block = self._current = self._filling.popleft()
            for piece in block.pieces:
                piece.result()
            slot, n_rows = block.slot, block.stop - block.start
            if slot.used is not None:
                self._copying.wait(slot.used)
            self._copying.copy(block.rows, slot.buffer[:n_rows, :])
            slot.copied = self._copying.record()
            self._computing.wait(slot.copied)
        assert self._current.start <= row < self._current.stop, f"row {row} is not in the next block"
        return self._current

    def _release(self, block: _Block) -> None:
        block.slot.used = self._computing.record()
        self._free.append(block.slot)
        self._current = None
        self._fill_slots()

    def _fill_slots(self) -> None:
        """Let threads fill every slot that is free."""
        while self._free:
            block_range = next(self._block_ranges, None)
            if block_range is None:
                return
            self._filling.append(self._fill(block_range, self._free.popleft()))

    def _fill(self, block_range: BlockRange, slot: _Slot | None) -> _Block:
        start, stop = block_range
        n_rows, width = stop - start, self._source.shape[1]
        if slot is not None and slot.buffer.shape[0] < n_rows:
            if slot.used is not None:
                slot.used.wait()  # nothing queued reads it any more
            slot = None  # frees it before a larger one is made
        if slot is None:
            slot = self._new_slot(max(n_rows, min(self._plan.block_rows, self._plan.row_stop - self._plan.row_start)))
        if self._lent is not None:
            rows = self._lent.read(start, stop)
            self.bytes_read += rows.nbytes
            return _Block(block_range, slot, rows, [])
        assert slot.memory is not None
        rows = slot.memory[: n_rows * width].reshape(n_rows, width)
        pieces = [
            self._threads.submit(self._read, first, last, rows[first - start : last - start, :], slot.copied)
            for first, last in self._pieces(start, stop)
        ]
        return _Block(block_range, slot, rows, pieces)

    def _new_slot(self, n_rows: int) -> _Slot:
        width = self._source.shape[1]
        memory = None
        if self._lent is None:
            memory = self._card.pinned(n_rows * width * self.kind.dtype.itemsize).view(self.kind.dtype)
        with self._copying:  # which writes it first: earlier work of another stream may still use memory freed there
            return _Slot(memory, self._card.stored_rows((n_rows, width), self.kind))

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the pieces of a block that one thread reads each: they end at natural bounds."""
        bounds = self._source.bounds(start, stop)
        rows = max(1, PIECE_BYTES // (self._source.shape[1] * self._source.stored.dtype.itemsize))
        while start < stop:
            index = bisect_left(bounds, start + rows)
            end = bounds[index] if index < len(bounds) else stop
            yield start, end
            start = end

    def _read(self, start: int, stop: int, rows: Array, copied: Event | None) -> None:
        """Fill a part of a slot, once its last block was copied."""
        if copied is not None:
            copied.wait()
        source = self._source
        stored = source.read(start, stop, rows if self._is_as_stored else None)
        if self._refuse_missing:
            for first, last in source.missing(start, stop):
                raise MissingChunksError(missing_message(source, first, last))
        for observe in self._observers:
            observe(start, stored)
        if not self._is_as_stored:
            try:
                rows[...] = source.stored.values(stored)
            except OverflowError as error:
                raise self._faults.inexact(start + error.args[0]) from None
        elif not np.may_share_memory(stored, rows):  # a source in memory lends its rows
            np.copyto(rows, stored)
        with self._lock:
            self.bytes_read += stored.nbytes

    def close(self) -> None:
        """Read nothing more; reads under way are not waited for, and the computing stream waits for queued copies."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class ResidentRows:
    """Rows of a source that lie on the card: handed out where they are.

    Parameters
    ----------
    observers
        Each is called with the first row and the rows copied to the host.
    """

    def __init__(self, spec: PassSpec, observers: Sequence[Observer] = ()) -> None:
        self._source, self._card, self._observers = spec.source, cast(Card, spec.device), observers
        self.kind = spec.source.stored
        self.bytes_read = 0

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """Yield the rows [start, stop) with the number of the first."""
        stored = self._source.read(start, stop)
        if self._observers:
            held = self.kind.as_held(self._card.download(stored))
            for observe in self._observers:
                observe(start, held)
        self.bytes_read += (stop - start) * self._source.shape[1] * self.kind.dtype.itemsize
        yield start, stored

    def close(self) -> None:
        """Do nothing: nothing is read ahead."""


def card_rows(
    spec: PassSpec, computing: Stream, block_ranges: Iterable[BlockRange], observers: Sequence[Observer] = ()
) -> SlotFeed | ResidentRows:
    """Return the rows of a pass on its card, from wherever they lie."""
    if isinstance(spec.source, ArraySource) and spec.source.device is spec.device:
        return ResidentRows(spec, observers)
    return SlotFeed(spec, computing, block_ranges, observers)
