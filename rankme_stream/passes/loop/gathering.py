"""Units of a sample read into memory: each chunk once a batch, by several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from rankme_stream.errors import MissingChunksError, RankMeError
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.passes.loop.block_reader import missing_message
from rankme_stream.passes.loop.panels import PanelWriter
from rankme_stream.passes.loop.storage_wait import StorageWait
from rankme_stream.passes.state.audit import Rules
from rankme_stream.sources import GatheredRows

_TICK_S = 0.1
_READS_AT_A_TIME, _BYTES_AT_A_TIME = 32, 2**20  # that a thread takes where reads only compute


class _Failure(NamedTuple):
    """First row of a read that failed, and why."""

    row: int
    error: RankMeError


class Gatherer:
    """Reads gathered rows, batch after batch.

    Parameters
    ----------
    rules
        Treatment of faulty rows.
    workers, most_readers
        Reads at once while they compute, and once they are seen to wait for storage.

    Attributes
    ----------
    rows_done, bytes_read
        Rows gathered, and bytes decoded for them, so far.
    """

    def __init__(self, rules: Rules, workers: int, most_readers: int) -> None:
        self._rules, self._workers, self._most_readers = rules, workers, most_readers
        self._waiting, self._buffers = StorageWait(workers), threading.local()
        self._lock = threading.Lock()
        self.rows_done = self.bytes_read = 0

    def read(self, gathered: GatheredRows, reads: Iterable[tuple[int, int]], report: Callable[[], None]) -> None:
        """Fill gathered rows by reads [start, stop) of their source, ascending, which hold them all.

        ``report`` is called from this thread about ten times a second. An interrupt is raised at once; reads under way
        are not waited for.

        Raises
        ------
        RankMeError
            The error of the first row at fault, in the order of the source, whichever read ended first.
        """
        waiting, stop = iter(reads), threading.Event()
        if gathered.device is not HOST:  # whose rows are copied where they lie, in the order in which work is queued
            failure = self._read_all(gathered, list(waiting), stop)
            self._refuse(gathered, [] if failure is None else [failure])
            return
        running, failures = set[Future[_Failure | None]](), list[_Failure]()
        pool = ThreadPoolExecutor(self._most_readers, thread_name_prefix="rankme-read")
        try:
            upcoming = self._taken(gathered, waiting)
            while running or (upcoming and not failures):
                while upcoming and not failures and len(running) < self._at_once:
                    running.add(pool.submit(self._read_all, gathered, upcoming, stop))
                    upcoming = self._taken(gathered, waiting)
                done, running = wait(running, timeout=_TICK_S, return_when=FIRST_COMPLETED)
                failures += [failure for future in done if (failure := future.result()) is not None]
                report()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
        self._refuse(gathered, failures)

    def _refuse(self, gathered: GatheredRows, failures: Sequence[_Failure]) -> None:
        """Raise the first of some failures, or that of a faulty row before it."""
        if failures:
            row, error = min(failures, key=lambda failure: failure.row)
            refuse_faults(gathered, self._rules, row)
            raise error

    @property
    def _at_once(self) -> int:
        return self._most_readers if self._waiting.is_long else self._workers

    def _taken(self, gathered: GatheredRows, reads: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the next reads for one thread: one, or several small ones once they are seen to compute only."""
        taken = list(islice(reads, 1))
        if taken and self._waiting.is_judged and not self._waiting.is_long:
            n_bytes = (taken[0][1] - taken[0][0]) * _row_bytes(gathered)
            taken += islice(reads, min(_READS_AT_A_TIME, _BYTES_AT_A_TIME // n_bytes))
        return taken

    def _read_all(
        self, gathered: GatheredRows, reads: Sequence[tuple[int, int]], stop: threading.Event
    ) -> _Failure | None:
        """Do some reads until one fails, or the caller stops."""
        for first, last in reads:
            if stop.is_set():
                break
            with self._lock:
                self._waiting.begin()
            try:
                n_rows = self._read(gathered, first, last)
            except RankMeError as error:
                return _Failure(first, error)
            with self._lock:
                self._waiting.end()
                self.rows_done += n_rows
                self.bytes_read += (last - first) * _row_bytes(gathered)
        return None

    def _read(self, gathered: GatheredRows, start: int, stop: int) -> int:
        """Read rows, put those that are wanted into their places, and return their number."""
        source, pieces = gathered.origin, list(gathered.pieces(start, stop))
        is_on_host = gathered.device is HOST
        out = None
        if is_on_host:
            all_wanted = len(pieces) == 1 and pieces[0][:2] == (start, stop)
            out = gathered.room(pieces[0][2], stop - start) if all_wanted else self._buffer(gathered, stop - start)
        found = source.read(start, stop, out)
        if self._rules.missing == "error":
            for first, last in source.missing(start, stop):
                raise MissingChunksError(missing_message(source, first, last))
        for low, high, place in pieces:
            room, rows = gathered.room(place, high - low), found[low - start : high - start, :]
            if not (is_on_host and np.may_share_memory(room, rows)):
                room[...] = rows
        return sum(high - low for low, high, _ in pieces)

    def _buffer(self, gathered: GatheredRows, n_rows: int) -> Array:
        """Return memory of this thread for rows of which not all are wanted."""
        buffer: Array | None = getattr(self._buffers, "rows", None)
        if buffer is None or len(buffer) < n_rows:
            buffer = self._buffers.rows = np.empty((n_rows, gathered.shape[1]), gathered.stored.dtype)
        return buffer[:n_rows]


def refuse_faults(gathered: GatheredRows, rules: Rules, row_stop: int | None = None) -> None:
    """Raise the error of the first faulty row, in the order of the source; of those before ``row_stop`` if given."""
    runs = ((start, stop if row_stop is None else min(stop, row_stop)) for start, stop in gathered.runs())
    for _ in values_of_runs(gathered, rules, (run for run in runs if run[0] < run[1])):
        pass


def values_of_runs(
    gathered: GatheredRows, rules: Rules, runs: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, FloatArray]]:
    """Yield runs of rows of the source that were gathered, or their beginnings, as a pass decodes them.

    Yields
    ------
    tuple
        The first row in the source, and the values without rows that are left out, which hold until the next are asked
        for.

    Raises
    ------
    NonFiniteError, ZeroRowError, MagnitudeError
        The message names the row of the source.
    """
    workspace = Workspace()
    writer = PanelWriter(gathered.origin, workspace, rules)
    for start, stop in runs:
        panel: Any = workspace.room("panel", (stop - start, 1 + gathered.shape[1]))
        writer.write(start, gathered.held(start, stop), panel)
        yield start, panel[panel[:, 0] != 0.0, 1:]


def _row_bytes(gathered: GatheredRows) -> int:
    return gathered.shape[1] * gathered.stored.dtype.itemsize
