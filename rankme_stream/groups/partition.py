"""Which rows belong together: labels told apart and counted before a pass, and looked up during it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from rankme_stream.errors import SourceFormatError, UsageError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.labels import Labels, open_labels, plain

MOST_GROUPS = 100_000
N_BATCHES = 16
_AT_ONCE = 2**17  # labels read and told apart at once


@dataclass(frozen=True)
class Partition:
    """Rows [row_start, row_stop) of a source, each in one group.

    Attributes
    ----------
    names
        Of the groups, in the order of their first rows.
    counts, first, last
        Shape ``(groups,)``: how many rows each has, and the first and the last of them.
    batches
        Shape ``(groups,)``: which of at most 16 batches each is in: groups in the order of a hash of their names, dealt
        out in turn. The jackknife over groups leaves out a batch at a time.
    digest
        Of which row is in which group, and of the names.
    run_rows
        Rows of a group, where groups are runs of so many rows of the source; 0 where they are told by labels.
    codes
        Shape ``(row_stop - row_start,)``, place of each row's group in ``names``; empty where groups are runs.
    """

    row_start: int
    row_stop: int
    names: Sequence[str]
    counts: Array
    first: Array
    last: Array
    batches: Array
    digest: str
    run_rows: int = 0
    codes: Array = field(default_factory=lambda: np.empty(0, np.uint8), repr=False)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.names)

    def of(self, start: int, stop: int) -> Array:
        """Return the places in ``names`` of the groups of rows ``[start, stop)``, shape ``(stop - start,)``."""
        if self.run_rows:
            return np.arange(start, stop) // self.run_rows - self.row_start // self.run_rows
        return self.codes[start - self.row_start : stop - self.row_start]

    def part(self, start: int, stop: int) -> Partition:
        """Return the same groups, able to tell those of rows ``[start, stop)`` alone: what a worker needs."""
        codes = self.codes if self.run_rows else self.of(start, stop)
        return replace(self, row_start=self.row_start if self.run_rows else start, codes=codes)


def partition_of(spec: Any, n_rows: int, rows: tuple[int, int]) -> Partition:
    """Return the groups that are asked for, of rows ``[A, B)`` of a source of ``n_rows``.

    Parameters
    ----------
    spec
        ``rows:N`` for runs of N rows; ``labels.npy`` or ``store.zarr::labels``; or labels in memory: one for each row
        of the source, integers or strings.

    Raises
    ------
    UsageError
        If it is none of these, or there are more than 100,000 groups.
    SourceError
        If the labels cannot be read, or are not as many as the rows.
    """
    if isinstance(spec, str | os.PathLike):
        text = os.fspath(spec)
        if text.startswith("column:"):
            raise UsageError(
                f"groups {text!r}: no source here has columns beside its features; store the labels as an array of "
                "their own and give store.zarr::array or labels.npy"
            )
        if text.startswith("rows:"):
            if (match := re.fullmatch(r"rows:([1-9]\d*)", text)) is None:
                raise UsageError(f"groups {text!r} is no number of rows; write for example rows:10000")
            return _runs(int(match[1]), rows)
    labels = open_labels(spec)
    if labels.n_rows != n_rows:
        raise SourceFormatError(f"{labels.uri} holds {labels.n_rows:,} labels, and the source {n_rows:,} rows")
    return _told_apart(labels, rows)


def _runs(run_rows: int, rows: tuple[int, int]) -> Partition:
    start, stop = rows
    runs = np.arange(start // run_rows, -(-stop // run_rows), dtype=np.int64)
    _check_count(len(runs))
    first, ends = np.maximum(runs * run_rows, start), np.minimum((runs + 1) * run_rows, stop)
    names = [f"{low}:{high}" for low, high in zip(first.tolist(), ends.tolist(), strict=True)]
    digest = _digest(names, np.empty(0, np.uint8))
    return Partition(start, stop, names, ends - first, first, ends - 1, _dealt(names), digest, run_rows)


def _told_apart(labels: Labels, rows: tuple[int, int]) -> Partition:
    start, stop = rows
    places: dict[Any, int] = {}
    codes = np.empty(stop - start, np.uint8)
    first, last, counts = (np.zeros(0, np.int64) for _ in range(3))
    for low in range(start, stop, _AT_ONCE):
        high = min(stop, low + _AT_ONCE)
        values, at, inverse = np.unique(
            plain(labels.read(low, high), labels.uri), return_index=True, return_inverse=True
        )
        listed: list[Any] = values.tolist()
        for place in np.argsort(at).tolist():
            places.setdefault(listed[place], len(places))
        _check_count(len(places))
        here = np.array([places[value] for value in listed])
        codes = _roomier(codes, len(places), low - start)
        codes[low - start : high - start] = here[inverse]
        new = len(places) - len(first)
        first, last, counts = (np.concatenate([one, np.zeros(new, np.int64)]) for one in (first, last, counts))
        fresh = here[counts[here] == 0]
        first[fresh] = low + at[counts[here] == 0]
        last[here[inverse]] = np.arange(low, high)  # of several, the last one stays
        counts[here] += np.bincount(inverse, minlength=len(listed))
    names = [str(value) for value in places]
    return Partition(start, stop, names, counts, first, last, _dealt(names), _digest(names, codes), 0, codes)


def _roomier(codes: Array, n_groups: int, n_filled: int) -> Array:
    """Return codes in the smallest type that so many groups need; pages that hold none yet are not touched."""
    wanted = np.min_scalar_type(n_groups)
    if wanted.itemsize <= codes.dtype.itemsize:
        return codes
    roomy = np.empty(len(codes), wanted)
    roomy[:n_filled] = codes[:n_filled]
    return roomy


def _check_count(n_groups: int) -> None:
    if n_groups > MOST_GROUPS:
        raise UsageError(f"there are more than {MOST_GROUPS:,} groups; tell fewer apart: a number a row groups nothing")


def _digest(names: Sequence[str], codes: Array) -> str:
    digest = blake2b("\0".join(names).encode(), digest_size=8)
    digest.update(codes.astype(codes.dtype.newbyteorder("<"), copy=False).view(np.uint8).data)
    return digest.hexdigest()


def _dealt(names: Sequence[str]) -> Array:
    """Return a batch for each group."""
    hashes = [blake2b(name.encode(), digest_size=16).digest() for name in names]
    batches = np.empty(len(names), np.int64)
    batches[sorted(range(len(names)), key=hashes.__getitem__)] = np.arange(len(names)) % N_BATCHES
    return batches
