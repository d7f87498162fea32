"""Rows of quantised numbers, multiplied by an array of scales: one a row, or one a row and group of features."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.dtypes import Array, FloatArray, named_type
from rankme_stream.sources.array_options import Opening
from rankme_stream.sources.row_values import values_of
from rankme_stream.sources.source import Source
from rankme_stream.sources.storage import Storage, storage_of
from rankme_stream.sources.stored_sizes import StoredSizes, stored_sizes
from rankme_stream.sources.value_types import ScalesAt

_AT_ONCE = 2**16  # values scaled at once: what that takes stays in the cache


class StoredArray(Source, Protocol):
    """Rows of an array that is stored, which another array may scale.

    Attributes
    ----------
    scales
        Array of scales that the options or the metadata name; None without.
    axis, n_axes
        Number of the axis of the features, and of all axes.
    """

    scales: ScalesAt | None
    axis: int
    n_axes: int

    @property
    def row_order(self) -> tuple[object, ...] | None:
        """What the order of the rows depends on, beside their number; None where it is that of C."""

    def argument_of(self, path: str) -> Opening:
        """Return what opens another array of the store or file by its path in it, in this process."""


class ScaledRows:
    """Rows in float64: those of a source, each number times its scale; a row without a finite scale holds NaN.

    Parameters
    ----------
    rows
        Quantised rows; their decoding is applied first.
    scales
        Shape ``(rows, groups)``: a row has a scale for each of the groups of features, which are equally wide.
    named_by
        What names the scales, for the result.

    Raises
    ------
    SourceFormatError
        If the scales do not fit the rows.
    """

    def __init__(self, rows: Source, scales: Source, named_by: str) -> None:
        (n_rows, n_features), (n_scales, n_groups) = rows.shape, scales.shape
        if n_scales != n_rows or n_features % n_groups:
            raise SourceFormatError(
                f"{scales.uri} has {n_scales:,} rows of {n_groups:,} scales, which do not fit the {n_rows:,} rows of "
                f"{n_features:,} features of {rows.uri}: one a row is needed, or one a row and group of features"
            )
        self.uri, self.shape = rows.uri, rows.shape
        self._rows, self._scales, self._held = rows, scales, threading.local()
        code = rows.stored.name if rows.stored.decoding is None else f"({rows.stored.description})"
        each = "one" if n_groups == 1 else f"{n_groups:,}"
        note = f"{code} * scales, {each} a row, by {named_by}"
        no_scale = "has a scale that is not finite, which means no data"
        if scales.stored.decoding is not None and scales.stored.decoding.absence:
            no_scale = f"has a scale that is not finite or {scales.stored.decoding.absence}, which means no data"
        lacking = " or ".join(fault for fault in (rows.stored.fault, no_scale) if fault)
        self.stored = replace(named_type("float64"), note=note, lacking=lacking)
        self.integrity = rows.integrity if rows.integrity == scales.integrity else "none"

    @property
    def chunks_missing(self) -> int:
        """Number of chunks of rows or scales known so far to be unwritten."""
        return self._rows.chunks_missing + self._scales.chunks_missing

    @property
    def first_missing(self) -> str | None:
        """Key of the first of these chunks; with the name of its array, if it is one of scales."""
        if self._rows.first_missing is not None or self._scales.first_missing is None:
            return self._rows.first_missing
        return f"{self._scales.first_missing} of {self._scales.uri}"

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return the row offsets strictly inside ``(start, stop)`` where a chunk of the quantised rows begins."""
        return self._rows.bounds(start, stop)

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)`` in float64, in ``out`` when given.

        Raises
        ------
        SourceError, StorageError
            As the sources of rows and scales.
        """
        values = np.empty((stop - start, self.shape[1])) if out is None else out
        if stop <= start:
            return values
        codes, scales, n_groups = self._rows.read(start, stop), self._scales_of(start, stop), self._scales.shape[1]
        step = max(1, _AT_ONCE // self.shape[1])
        for low in range(0, stop - start, step):
            some = slice(low, low + step)
            piece, factors = values_of(self._rows, codes[some], start + low), scales[some]
            with np.errstate(all="ignore"):  # an overflow is refused as infinity is
                piece.reshape(len(piece), n_groups, -1)[...] *= factors[:, :, None]
            piece[~np.isfinite(factors).all(axis=1)] = np.nan
            values[some] = piece
        return values

    def read_memory(self, n_rows: int) -> int:
        """Return an upper estimate of the bytes that reading ``n_rows`` rows from a bound takes, result included."""
        n_features, n_groups = self.shape[1], self._scales.shape[1]
        first = self._scales.bounds(0, self.shape[0])
        n_scales = min(self.shape[0], n_rows + 2 * (first[0] if len(first) else self.shape[0]))
        working = 3 * 8 * max(_AT_ONCE, n_features)
        scaling = self._scales.read_memory(n_scales) + 2 * 8 * n_scales * n_groups
        return self._rows.read_memory(n_rows) + 8 * n_rows * n_features + working + scaling

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges within ``[start, stop)`` without rows or scales, as known so far, ascending, merged."""
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self._rows.missing(start, stop), *self._scales.missing(start, stop)]):
            if merged and merged[-1][1] >= low:
                low, high = merged[-1][0], max(high, merged.pop()[1])
            merged.append((low, high))
        return merged

    @property
    def tail_start(self) -> int:
        """First row of the unit of storage, of rows or scales, that is written again when rows are added."""
        return min(self._rows.tail_start, self._scales.tail_start)

    def reopen(self) -> Any:
        """Return an argument of ``open_source`` for another process: that of the quantised rows, which names both."""
        return None if self._scales.reopen() is None else self._rows.reopen()

    def identity(self) -> dict[str, object]:
        """Return the properties that all parts of a data set share."""
        codes = self._rows.identity()
        return codes | {"dtype": "float64", "codes": codes, "scales": self._scales.identity()}

    def stored_sizes(self, start: int, stop: int) -> Sequence[StoredSizes]:
        """Return the stored sizes of the chunks of the quantised rows."""
        return stored_sizes(self._rows, start, stop)

    def storage(self) -> Storage:
        """Return how the quantised rows are stored, and their scales."""
        rows, scales = storage_of(self._rows), storage_of(self._scales)
        words = f"{self._scales.shape[1]:,} a row in {self._scales.uri}, {scales.format}"
        known = rows.n_bytes is not None and scales.n_bytes is not None
        n_bytes = (rows.n_bytes or 0) + (scales.n_bytes or 0) if known else None
        requests = None if rows.n_requests is None else rows.n_requests + (scales.n_requests or 0)
        return Storage(rows.format, (*rows.facts, ("scales", words)), n_bytes, requests, rows.where)

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash of those of the quantised rows and of their scales."""
        both = f"{self._rows.fingerprint(start, stop)} {self._scales.fingerprint(start, stop)}"
        return blake2b(both.encode(), digest_size=16).hexdigest()

    def _scales_of(self, start: int, stop: int) -> FloatArray:
        """Return the scales of rows, read by whole units of storage; the last units stay held for the next rows."""
        held: tuple[int, FloatArray] | None = getattr(self._held, "scales", None)
        if held is None or not held[0] <= start <= stop <= held[0] + len(held[1]):
            before, after = self._scales.bounds(0, start + 1), self._scales.bounds(stop - 1, self.shape[0])
            low, high = before[-1] if len(before) else 0, after[0] if len(after) else self.shape[0]
            held = low, values_of(self._scales, self._scales.read(low, high), low)
            self._held.scales = held
        return held[1][start - held[0] : stop - held[0]]
