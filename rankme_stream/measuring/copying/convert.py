"""The public function that copies rows from any source into one zarr array, and what it returns."""

from __future__ import annotations

import os
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rankme_stream.errors import CorruptChunkError, OutputError, SourceChangedError, UsageError
from rankme_stream.measuring.copying.copy_plan import CopyPlan, check_space, level_for, plain_format, plan_copy
from rankme_stream.measuring.copying.row_feed import Read, RowFeed, StoredFeed, StreamFeed
from rankme_stream.measuring.request import Request
from rankme_stream.numerics import machine
from rankme_stream.numerics.devices.registry import memory_errors_as_limits
from rankme_stream.numerics.dtypes import Array
from rankme_stream.passes.engines.engine import Progress
from rankme_stream.sources import is_blocks, open_source, without_secrets
from rankme_stream.sources.address import split_address
from rankme_stream.sources.stores.regular_file import reason
from rankme_stream.sources.zarr.codecs.pack import Packed, crc32c, packed
from rankme_stream.sources.zarr.writer import ArrayFormat, UnfinishedArray


@dataclass(frozen=True)
class Conversion:
    """A copy that was made.

    Attributes
    ----------
    source, dest
        Names of the rows that were copied, and path of the copy.
    n_rows, n_features, dtype, decoding
        Rows and features, and the type and meaning of their stored numbers.
    chunk_rows, shard_rows, compression
        Rows of a chunk and of a file, and ``zstd`` or ``none``.
    saved
        Share of its bytes that zstd saves of a sample of the rows; None where an earlier run took the sample.
    bytes_of_numbers, bytes_before, bytes_after
        Bytes of the numbers in memory, of the source as it is stored (None where that is not known), and of the copy.
    rows_before
        Rows that earlier runs had copied, which were interrupted.
    elapsed_s, predicted_peak_bytes
        Seconds of this run, and the memory that it was planned for.
    """

    source: str
    dest: str
    n_rows: int
    n_features: int
    dtype: str
    decoding: str
    chunk_rows: int
    shard_rows: int
    compression: str
    saved: float | None
    bytes_of_numbers: int
    bytes_before: int | None
    bytes_after: int
    rows_before: int
    elapsed_s: float
    predicted_peak_bytes: int

    @property
    def ratio(self) -> float:
        """Bytes of the copy, divided by those of the source as stored; of the numbers, where that is not known."""
        return self.bytes_after / (self.bytes_before or self.bytes_of_numbers)

    @property
    def command(self) -> str:
        """Command that scores the copy."""
        return f"rankme score {shlex.quote(self.dest)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types, with ratio and command."""
        return {"schema_version": 1} | asdict(self) | {"ratio": self.ratio, "command": self.command}

    def __str__(self) -> str:
        """Return a summary of a few lines."""
        packing = f"{self.compression}, " if self.compression != "none" else "not compressed, "
        if self.saved is not None:
            packing += f"since zstd saves {self.saved:.0%} of a sample, "
        before = "" if self.bytes_before is None else f"{self.bytes_before:,} bytes as they were stored, "
        resumed = f", {self.rows_before:,} of them by earlier runs" if self.rows_before else ""
        return (
            f"{self.dest}: {self.n_rows:,} rows x {self.n_features:,}{resumed}, read back and equal\n"
            f"  {self.decoding}\n"
            f"  {packing}crc32c; chunks of {self.chunk_rows:,} rows, files of {self.shard_rows:,}\n"
            f"  {self.bytes_of_numbers:,} bytes of numbers, {before}{self.bytes_after:,} in the copy "
            f"({self.ratio:.1%}); {self.elapsed_s:.1f} s\n"
            f"  {self.command}"
        )


class _Batch(NamedTuple):
    """Rows in packed chunks, their number, and the checksum of them all as they were read."""

    chunks: list[Packed]
    n_rows: int
    checksum: int


def convert(
    source: Any,
    dest: str | os.PathLike[str],
    *,
    rows: tuple[int | None, int | None] | None = None,
    workers: int | None = None,
    memory_limit: int | None = None,
    key: str | int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Conversion:
    """Copy rows into one zarr v3 array, whose score has the same bits, and which is fast to read.

    Parameters
    ----------
    source, key
        As in ``measure``: a path or URI, an array, an iterable of blocks, or a ``Source``, such as ``open_source``
        returns with options of an array.
    dest
        Folder to be made, of a name that ends in ``.zarr``.
    rows
        Rows [A, B) to copy; None for all, and None in place of A or B for the first or last row.
    workers
        Number of threads; None uses one per core, fewer if memory requires it.
    memory_limit
        Bytes that this process may hold; None is half of what the machine or its cgroup offers.
    progress
        Called with the rows copied so far, several times a second.

    Returns
    -------
    Conversion
        What was written.

    Raises
    ------
    SourceError
        If the rows are not found, not numbers, missing or corrupt, or changed meanwhile. NaN and numbers that mean no
        data are copied as they are.
    StateError
        If an earlier run began a copy of other rows.
    LimitError
        If the memory limit is too low; the message says what would do.
    UsageError
        If something is at ``dest``, or no metadata say what the numbers mean.
    OutputError
        If the copy cannot be written; what was written stays.

    Notes
    -----
    The stored numbers are copied as they are, with their decoding in attributes of the CF conventions; rows that an
    array scales become float64. Every file is read back and compared before it counts. Until the copy is whole it lies
    in ``dest`` + ``.partial``; the same call goes on from there, but for a stream of blocks.
    """
    request = Request(rows=rows, workers=workers, memory_limit=memory_limit, key=key).check()
    began, place = time.perf_counter(), _checked_place(os.fspath(dest))
    with memory_errors_as_limits():
        feed = _feed(source, request)
        _refuse_inside(place, feed)
        plan = plan_copy(feed, plain_format(feed), machine.limits(request.workers, request.memory_limit))
        with UnfinishedArray(place, is_kept=feed.is_stored) as array:
            origin = feed.origin()
            chosen, saved = _begin(array, feed, origin)
            check_space(place.parent, chosen, None if feed.n_rows is None else feed.n_rows - array.rows_done)
            rows_before = array.rows_done
            _copy(feed, array, chosen, plan, progress)
            if feed.origin() != origin:
                array.discard()
                raise SourceChangedError(
                    f"{feed.uri} changed while it was copied: there is no copy; run again when nothing writes to it"
                )
            n_rows, n_bytes = array.rows_done, array.finish()
    return Conversion(
        source=feed.uri, dest=str(place), n_rows=n_rows, n_features=feed.n_features, dtype=feed.stored.name,
        decoding=feed.stored.description, chunk_rows=chosen.chunk_rows, shard_rows=chosen.shard_rows,
        compression="none" if chosen.level is None else "zstd", saved=saved,
        bytes_of_numbers=n_rows * chosen.row_bytes, bytes_before=feed.bytes_stored, bytes_after=n_bytes,
        rows_before=rows_before, elapsed_s=time.perf_counter() - began, predicted_peak_bytes=plan.peak_bytes,
    )  # fmt: skip


def _feed(source: Any, request: Request) -> RowFeed:
    if is_blocks(source):
        return StreamFeed(source, request)
    return StoredFeed(open_source(source, key=request.key), request)


def _checked_place(dest: str) -> Path:
    """Return the folder of the copy; refuse one that exists, or is none of this machine."""
    place = Path(dest)
    try:
        is_free = place.suffix == ".zarr" and "::" not in dest and "://" not in dest
        place.lstat()
    except FileNotFoundError:
        if is_free and place.parent.is_dir():
            return place
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {reason(error)}") from None
    except ValueError:  # a NUL, or half of a surrogate pair
        is_free = False
    if not is_free:
        raise UsageError(
            f"{without_secrets(dest)!r} cannot be the copy: name a folder of this machine that ends in .zarr, such as "
            "copy.zarr"
        )
    if not place.parent.is_dir():
        raise OutputError(f"{place} cannot be written: the folder {place.parent} does not exist")
    raise UsageError(f"{place} exists, and a copy replaces nothing: give another name, or delete it")


def _refuse_inside(place: Path, feed: RowFeed) -> None:
    """Refuse a copy in the folder that is copied."""
    folder = split_address(feed.uri)[0]
    if os.path.isdir(folder) and Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder)):
        raise UsageError(f"{place} lies in {folder}, which is read: give a folder outside")


def _begin(array: UnfinishedArray, feed: RowFeed, origin: dict[str, Any]) -> tuple[ArrayFormat, float | None]:
    """Return the format, that of an earlier run if it began, and what zstd saves."""
    plain, saved = plain_format(feed), None
    chosen = array.resume(origin, plain, feed.n_rows)
    if chosen is None:
        level, saved = level_for(feed, plain.chunk_rows)
        chosen = replace(plain, level=level)
    array.begin(chosen, origin)
    return chosen, saved


def _copy(
    feed: RowFeed, array: UnfinishedArray, chosen: ArrayFormat, plan: CopyPlan,
    progress: Callable[[Progress], None] | None,
) -> None:  # fmt: skip
    """Copy the rows that an array lacks, one file after another; each is read back before it counts."""
    began, rows_before, n_rows = time.perf_counter(), array.rows_done, 0
    pool = ThreadPoolExecutor(plan.concurrency.workers, thread_name_prefix="rankme-copy")

    def report(batch: _Batch) -> _Batch:
        nonlocal n_rows
        n_rows += batch.n_rows
        if progress is not None:
            total = n_rows if feed.n_rows is None else feed.n_rows - rows_before
            elapsed_s = time.perf_counter() - began
            progress(Progress(n_rows, total, n_rows * chosen.row_bytes, elapsed_s, rows_before=rows_before))
        return batch

    try:
        reads = feed.batches(rows_before, chosen.chunk_rows * plan.batch_chunks, plan.concurrency)
        batches = map(report, _in_order(reads, pool, chosen, plan.window))
        for first in batches:
            written: list[_Batch] = []
            of_shard = chain([first], islice(batches, chosen.shard_chunks // plan.batch_chunks - 1))
            array.write_shard(_chunks(of_shard, written))
            _check_shard(array, chosen, written, pool)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        feed.close()


def _in_order(reads: Iterator[Read], pool: ThreadPoolExecutor, chosen: ArrayFormat, window: int) -> Iterator[_Batch]:
    """Yield batches in order, a few of which are read and packed at once."""
    running: deque[Future[_Batch]] = deque()
    for read in reads:
        running.append(pool.submit(_packed_batch, read, chosen))
        if len(running) >= window:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _packed_batch(read: Read, chosen: ArrayFormat) -> _Batch:
    rows, chunks = read(), []
    for low in range(0, len(rows), chosen.chunk_rows):
        chunk = rows[low : low + chosen.chunk_rows]
        if len(chunk) < chosen.chunk_rows:  # the last, which is stored whole
            chunk = np.concatenate([chunk, np.zeros((chosen.chunk_rows - len(chunk), rows.shape[1]), rows.dtype)])
        chunks.append(packed(chunk, chosen.level))
    return _Batch(chunks, len(rows), crc32c(rows))


def _chunks(batches: Iterator[_Batch], written: list[_Batch]) -> Iterator[Packed]:
    """Yield the chunks of batches; keep the numbers of each batch, without its chunks, in ``written``."""
    for batch in batches:
        yield from batch.chunks
        written.append(batch._replace(chunks=[]))


def _check_shard(array: UnfinishedArray, chosen: ArrayFormat, batches: list[_Batch], pool: ThreadPoolExecutor) -> None:
    """Count the rows of the shard that was written, once they are read back and have the checksums that they had.

    Raises
    ------
    OutputError
        If they do not.
    """
    starts = np.cumsum([array.rows_done, *(batch.n_rows for batch in batches)]).tolist()
    reader = array.reader(starts[-1])

    def is_equal(start: int, batch: _Batch) -> bool:
        rows: Array = np.empty((batch.n_rows, chosen.n_features), chosen.stored.dtype)
        reader.read(start, start + batch.n_rows, rows)
        return crc32c(rows) == batch.checksum

    try:
        are_equal = all(pool.map(is_equal, starts[:-1], batches))
    except CorruptChunkError:
        are_equal = False
    if not are_equal:
        raise OutputError(
            f"{array.uri} does not read back as it was written: check disk and memory of this machine, and run again"
        )
    array.keep(starts[-1])
