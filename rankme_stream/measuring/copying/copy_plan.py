"""Chunks and compression of a copy, and the memory that making it takes, worked out before its rows are read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from rankme_stream.errors import LimitError, OutputError, argument
from rankme_stream.measuring.copying.row_feed import RowFeed, StoredFeed
from rankme_stream.numerics.machine import Limits
from rankme_stream.passes.planning.block_layout import largest_unit
from rankme_stream.passes.planning.workload import Concurrency
from rankme_stream.sources.zarr.codecs.pack import packed
from rankme_stream.sources.zarr.writer import ArrayFormat

_CHUNK_BYTES = 2**18  # larger chunks are read no faster, and a sample opens whole ones
_SHARD_BYTES = 2**28  # of a file: what an interruption costs at most
_BATCH_CHUNKS = (32, 8, 2)  # read and packed together
_BATCH_BYTES = 2**23  # that are enough, where rows are wide
_LEVEL = 1
_WORTHWHILE = 0.25  # share of the bytes that zstd must save: chunks that are only checked are read much faster
_LIBRARY_BYTES = 40 * 2**20
_THREAD_BYTES = 4 * 2**20  # of each worker
_WAITING = 2  # batches a worker that are read or wait to be written


def plain_format(feed: RowFeed) -> ArrayFormat:
    """Return the format of a copy that is not compressed; few rows fill its chunks, which are stored whole."""
    row_bytes = feed.n_features * feed.stored.dtype.itemsize
    chunk_rows = max(1, _CHUNK_BYTES // row_bytes)
    shard_chunks = max(1, _SHARD_BYTES // (chunk_rows * row_bytes * _BATCH_CHUNKS[0])) * _BATCH_CHUNKS[0]
    if feed.n_rows is not None:
        chunk_rows = -(-feed.n_rows // -(-feed.n_rows // chunk_rows))
        shard_chunks = min(shard_chunks, -(-feed.n_rows // (chunk_rows * _BATCH_CHUNKS[0])) * _BATCH_CHUNKS[0])
    return ArrayFormat(feed.n_features, feed.stored, chunk_rows, shard_chunks, None)


def level_for(feed: RowFeed, chunk_rows: int) -> tuple[int | None, float]:
    """Return the level of zstd, None where it saves too little of a sample, and the share that it saves."""
    n_bytes, n_packed = 0, 0
    for rows in feed.sample(chunk_rows):
        n_bytes, n_packed = n_bytes + rows.nbytes, n_packed + len(packed(rows, _LEVEL).content)
    saved = max(0.0, 1 - n_packed / n_bytes)
    return (_LEVEL if saved >= _WORTHWHILE else None), saved


@dataclass(frozen=True)
class CopyPlan:
    """Threads that copy, the chunks that each takes at once, and the bytes that the process holds at its peak."""

    concurrency: Concurrency
    batch_chunks: int
    peak_bytes: int

    @property
    def window(self) -> int:
        """Number of batches that are read, or wait to be written, at once."""
        return _WAITING * self.concurrency.workers


def plan_copy(feed: RowFeed, chosen: ArrayFormat, limits: Limits) -> CopyPlan:
    """Return the fastest way to copy that fits the memory limit.

    Raises
    ------
    LimitError
        If none does; the message says how much would.
    """
    counts = [limits.workers] if limits.workers else list(range(limits.cores, 0, -1))
    least, chunk_bytes = 0, chosen.chunk_rows * chosen.row_bytes
    sizes = [number for number in _BATCH_CHUNKS if number * chunk_bytes <= _BATCH_BYTES] or _BATCH_CHUNKS[-1:]
    for workers, reads_ahead, batch_chunks in product(counts, (True, False), sizes):
        batch_rows = chosen.chunk_rows * batch_chunks
        concurrency = Concurrency(workers, workers, reads_ahead, batch_rows)
        peak = limits.base_bytes + _held_bytes(feed, chosen, concurrency)
        if peak <= limits.memory_limit_bytes:
            return CopyPlan(concurrency, batch_chunks, peak)
        least = min(least or peak, peak)
    raise LimitError(
        f"copying {feed.uri} needs {-(-least // 2**20):,} MiB at least and the limit is "
        f"{limits.memory_limit_bytes // 2**20:,} MiB; give {argument('memory_limit')} "
        f"{-(-least // 2**24) * 16}MiB or more"
    )


def _held_bytes(feed: RowFeed, chosen: ArrayFormat, concurrency: Concurrency) -> int:
    """Return the bytes that copying takes: blocks of the source, batches of rows, and the same packed."""
    workers, batch_rows = concurrency.workers, concurrency.block_rows
    batch_bytes, held = batch_rows * chosen.row_bytes, _LIBRARY_BYTES + workers * _THREAD_BYTES
    held += (_WAITING + 2) * workers * batch_bytes + 2 * batch_bytes  # packed and checked, and taken from a stream
    if not isinstance(feed, StoredFeed):
        return held
    n_rows = feed.rows[1] - feed.rows[0]
    unit = largest_unit(feed.source.bounds(*feed.rows), *feed.rows)
    block_rows = min(n_rows, max(batch_rows, unit))
    n_units = -(-n_rows // block_rows) + 1
    kept = min(workers, max(0, n_units - workers))  # blocks of which a later batch has some rows
    ahead = concurrency.reads_ahead * min(workers, n_units)
    return (
        held
        + min(workers, n_units) * feed.source.read_memory(block_rows)
        + (kept + ahead) * block_rows * (chosen.row_bytes)
    )


def check_space(folder: Path, chosen: ArrayFormat, n_rows: int | None) -> None:
    """Refuse a copy that is not compressed, so that its size is known, where the disk has less space.

    Raises
    ------
    OutputError
        If the disk has less.
    """
    if n_rows is None or chosen.level is not None:
        return
    needed, free = n_rows * chosen.row_bytes, shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder} has {free:,} bytes free, and the copy takes {needed:,}: free space, or write elsewhere"
        )
