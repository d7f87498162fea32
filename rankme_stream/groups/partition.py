"""Partition of rows into groups: labels are counted before a pass and looked up during it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from rankme_stream.errors import SourceFormatError, UsageError, argument
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.concat import Part
from rankme_stream.sources.labels import ConcatLabels, Labels, labels_and_rows, open_labels

MOST_GROUPS = 100_000
N_BATCHES = 16
_LABELS_AT_ONCE = 2**17  # read and sorted at once


@dataclass(frozen=True)
class Partition:
    """Rows [row_start, row_stop) of a source, each in one group, or in none where it has no label.

    Attributes
    ----------
    row_start, row_stop
        First row, and the row after the last.
    names
        Names of the groups, in the order of their first rows.
    counts, first, last
        Shape ``(groups,)``: number of rows of each group, and its first and last row.
    batches
        Shape ``(groups,)``: batch of each group, at most 16, dealt out in turn to groups in the order of a hash of
        their names. The jackknife over groups leaves out a batch at a time.
    digest
        Hash of the names and of every row's group.
    ends
        Shape ``(groups,)``: row after the last of each group, if groups are runs of rows; empty if labels define them.
    codes
        Shape ``(row_stop - row_start,)``: index in ``names`` of each row's group, the largest number of its type for a
        row without a label; empty if groups are runs.
    """

    row_start: int
    row_stop: int
    names: Sequence[str]
    counts: Array
    first: Array
    last: Array
    batches: Array
    digest: str
    ends: Array = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    codes: Array = field(default_factory=lambda: np.empty(0, np.uint8), repr=False)

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.names)

    def group_indices(self, start: int, stop: int) -> Array:
        """Return the index in ``names`` of the group of each row in ``[start, stop)``, shape ``(stop - start,)``.

        The index of a row without a label is ``len(names)`` or more.
        """
        if len(self.ends):
            return np.searchsorted(self.ends, np.arange(start, stop), side="right")
        return self.codes[start - self.row_start : stop - self.row_start]

    def restrict(self, start: int, stop: int) -> Partition:
        """Return all groups, with the codes of rows ``[start, stop)`` alone: a worker needs no others."""
        if len(self.ends):
            return self
        return replace(self, row_start=start, codes=self.group_indices(start, stop))


def partition_of(
    spec: Any, n_rows: int, rows: tuple[int, int], *, parts: Sequence[Part] = (), missing: str = "error"
) -> Partition:
    """Return the groups that ``spec`` defines, of rows ``[A, B)`` of a source of ``n_rows``.

    Parameters
    ----------
    spec
        ``rows:N`` for runs of N rows; ``parts`` for the parts of the source; ``labels.npy`` or ``store.zarr::labels``;
        or labels in memory, one for each row of the source: integers or strings, None or NaN for a row in no group; or
        a partition of these rows, which is returned.
    parts
        Parts of the source, if it has any.
    missing
        Chunks of labels that were never written: ``error`` refuses them, ``skip`` leaves their rows without a label,
        ``fill`` takes the fill value.

    Raises
    ------
    UsageError
        If ``spec`` is none of these, or there are more than 100,000 groups.
    SourceError
        If the labels cannot be read, or are not as many as the rows.
    """
    if isinstance(spec, Partition):
        return spec
    if isinstance(spec, str | os.PathLike):
        text = os.fspath(spec)
        if text.startswith("column:"):
            raise UsageError(
                f"{argument('groups')} is {text!r}: no source here has columns beside its features; store the labels "
                "as an array of their own and give store.zarr::array or labels.npy"
            )
        if text.startswith("rows:"):
            if (match := re.fullmatch(r"rows:([1-9]\d{0,17})", text)) is None:
                raise UsageError(
                    f"{argument('groups')} is {text!r}, which is no number of rows below 10^18; write for example "
                    "rows:10000"
                )
            return _by_runs(int(match[1]), rows)
        if text == "parts":
            if not parts:
                raise UsageError(
                    f"{argument('groups')} is 'parts', and this source is one array: give several, by a pattern or "
                    "opened as one"
                )
            return _by_parts(parts, rows)
    labels = open_labels(spec, missing)
    if isinstance(labels, ConcatLabels):
        labels.check_parts(parts)
    if labels.n_rows != n_rows:
        raise SourceFormatError(
            f"{labels.uri} holds {labels.n_rows:,} labels, and the source {n_rows:,} rows: one for each row is needed"
        )
    return _by_labels(labels, rows)


def _by_runs(run_rows: int, rows: tuple[int, int]) -> Partition:
    start, stop = rows
    numbers = range(start // run_rows, -(-stop // run_rows))
    _check_count(len(numbers))  # before there is an array of them
    runs = np.array(numbers, dtype=np.int64)
    first, ends = np.maximum(runs * run_rows, start), np.minimum((runs + 1) * run_rows, stop)
    names = [f"{low}:{high}" for low, high in zip(first.tolist(), ends.tolist(), strict=True)]
    digest = _digest(names, np.empty(0, np.uint8))
    return Partition(start, stop, names, ends - first, first, ends - 1, _deal_batches(names), digest, ends)


def _by_parts(parts: Sequence[Part], rows: tuple[int, int]) -> Partition:
    start, stop = rows
    within = [part for part in parts if part.start < stop and part.stop > start]
    _check_count(len(within))
    names = [part.name for part in within]
    first = np.maximum([part.start for part in within], start)
    ends = np.minimum([part.stop for part in within], stop)
    digest = _digest(names, ends)
    return Partition(start, stop, names, ends - first, first, ends - 1, _deal_batches(names), digest, ends)


def _by_labels(labels: Labels, rows: tuple[int, int]) -> Partition:
    start, stop = rows
    numbers: dict[Any, int] = {}  # number of each group, by label, in the order of first rows
    codes = np.empty(stop - start, np.uint8)
    first, last, counts = (np.zeros(0, np.int64) for _ in range(3))
    for low in range(start, stop, _LABELS_AT_ONCE):
        high = min(stop, low + _LABELS_AT_ONCE)
        held, labelled = labels_and_rows(labels, low, high)
        values, first_seen, inverse = np.unique(held, return_index=True, return_inverse=True)
        listed: list[Any] = values.tolist()
        for index in np.argsort(first_seen).tolist():
            numbers.setdefault(listed[index], len(numbers))
        _check_count(len(numbers))
        here = np.array([numbers[value] for value in listed], np.int64)
        codes = _widen(codes, len(numbers), low - start)
        codes[low - start : high - start] = np.iinfo(codes.dtype).max
        codes[labelled - start] = here[inverse]
        new = len(numbers) - len(first)
        first, last, counts = (np.concatenate([one, np.zeros(new, np.int64)]) for one in (first, last, counts))
        is_new = counts[here] == 0
        first[here[is_new]] = labelled[first_seen[is_new]]
        last[here[inverse]] = labelled  # of several assignments to one group, the last one stays
        counts[here] += np.bincount(inverse, minlength=len(listed))
    if not numbers:
        raise SourceFormatError(f"{labels.uri} gives none of rows {start:,}-{stop - 1:,} a label: choose other labels")
    names = [str(value) if labels.names is None else labels.names[value] for value in numbers]
    return Partition(
        start, stop, names, counts, first, last, _deal_batches(names), _digest(names, codes), codes=codes
    )  # fmt: skip


def _widen(codes: Array, n_groups: int, n_filled: int) -> Array:
    """Return codes in the smallest type that holds so many groups and, as its largest number, none.

    Memory pages not filled yet stay untouched.
    """
    dtype = np.min_scalar_type(n_groups)
    if dtype.itemsize <= codes.dtype.itemsize:
        return codes
    widened = np.empty(len(codes), dtype)
    filled = codes[:n_filled]
    widened[:n_filled] = np.where(filled == np.iinfo(codes.dtype).max, dtype.type(np.iinfo(dtype).max), filled)
    return widened


def _check_count(n_groups: int) -> None:
    if n_groups > MOST_GROUPS:
        raise UsageError(f"there are more than {MOST_GROUPS:,} groups; use coarser labels")


def _digest(names: Sequence[str], codes: Array) -> str:
    digest = blake2b("\0".join(names).encode(), digest_size=8)
    digest.update(codes.astype(codes.dtype.newbyteorder("<"), copy=False).view(np.uint8).data)
    return digest.hexdigest()


def _deal_batches(names: Sequence[str]) -> Array:
    """Return the batch of each group."""
    hashes = [blake2b(name.encode(), digest_size=16).digest() for name in names]
    batches = np.empty(len(names), np.int64)
    batches[sorted(range(len(names)), key=hashes.__getitem__)] = np.arange(len(names)) % N_BATCHES
    return batches
