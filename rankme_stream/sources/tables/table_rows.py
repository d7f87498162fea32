"""Rows of a table: a column of lists of numbers, or several columns of numbers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np

from rankme_stream.errors import UsageError, argument
from rankme_stream.numerics.dtypes import Array, StoredType
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions, Opening
from rankme_stream.sources.features_axis import axis_of_features, check_rows
from rankme_stream.sources.storage import Storage
from rankme_stream.sources.stores.stored_file import StoredFile
from rankme_stream.sources.tables.columns import Column
from rankme_stream.sources.tables.list_values import RowValues
from rankme_stream.sources.value_types import chosen_scales, meaning_by_options
from rankme_stream.sources.whole_rows import WholeRows

_AT_ONCE = 2**20  # bytes of values whose axes are moved, or that are put side by side, at once


class ColumnReader(Protocol):
    """Column of a file; any rows of it can be read, by several threads at once.

    Attributes
    ----------
    widths
        Lengths of the lists of a row, the outermost first; empty for a number a row.
    """

    widths: tuple[int, ...]

    @property
    def edges(self) -> Array:
        """First row of each unit that is decoded by itself, and the end, ascending; shape ``(units + 1,)``."""

    @property
    def is_direct(self) -> bool:
        """Whether a read may begin at any row, and nothing is decoded twice."""

    @property
    def memory(self) -> int:
        """Most bytes that reading takes beside its result."""

    @property
    def n_bytes(self) -> int:
        """Bytes as stored."""

    def write(self, start: int, stop: int, out: Array, values: RowValues) -> None:
        """Write rows [start, stop) into ``out``, of shape ``(rows, values)``; raises as ``TableRows.read``."""


class Table(NamedTuple):
    """Table in a file.

    Attributes
    ----------
    file
        The file.
    n_rows
        Number of rows.
    header
        Bytes that describe the table, for the fingerprint.
    facts
        Labels and words about the layout.
    """

    file: StoredFile
    n_rows: int
    header: bytes
    facts: tuple[tuple[str, str], ...]


class TableRows(WholeRows):
    """Rows of a table.

    Parameters
    ----------
    table
        The table.
    columns, readers
        Column of lists, or columns of numbers of one type; and what reads each.
    options
        What the caller says about the numbers.
    inside
        Name or pattern of the columns that the caller gave; empty without.

    Attributes
    ----------
    scales
        Array of scales that the options name; None without.
    axis, n_axes
        Number of the axis of the features, and of all axes.
    feature_names
        Names of the columns that are the features; empty where one column holds them all.

    Raises
    ------
    UsageError
        If there is no such axis as the options name, or an option is not understood.
    SourceFormatError
        If there are no rows, or it is not clear which axis is the features.
    """

    row_order: tuple[object, ...] | None = None

    def __init__(
        self, table: Table, columns: Sequence[Column], readers: Sequence[ColumnReader], options: ArrayOptions,
        inside: str,
    ) -> None:  # fmt: skip
        column, self._readers = columns[0], readers
        name = inside or (column.name if len(columns) == 1 else "")
        self.uri = f"{table.file.uri}::{name}" if name else table.file.uri
        self._table, self._options, self._inside = table, options, inside
        self.feature_names = [one.name for one in columns] if len(columns) > 1 else []
        dtype = column.dtype
        assert dtype is not None  # of columns that were chosen
        kind = meaning_by_options(dtype, options, self.uri)
        self.stored: StoredType = replace(kind, lacking="is null or not finite") if kind.is_float else kind
        self.scales = chosen_scales(options)
        widths = readers[0].widths
        inner = column.shape if len(column.shape) != len(widths) else widths
        inner = inner or (len(columns),)
        self._axes = (table.n_rows, *inner)
        self.n_axes = len(self._axes)
        check_rows(self._axes, self.uri)
        names = (None, *(column.names or [None]))
        self.axis = axis_of_features(options.features_axis, self._axes, names, self.uri)
        if self.axis == 0:
            raise UsageError(
                f"{argument('features_axis')} is 0, and the rows of {self.uri} are stored one after another: rows of "
                "a table are rows; write its transpose to an array"
            )
        self._each = prod(inner) // self._axes[self.axis]  # rows of the source in a row of the table
        self.shape: tuple[int, int] = (table.n_rows * self._each, self._axes[self.axis])
        self._values = RowValues(widths, self._null(dtype), self.uri)

    def coordinates(self, start: int, stop: int) -> Array:
        """Return where rows ``[start, stop)`` lie along the other axes; use as of ``ZarrSource.coordinates``."""
        others = self._axes[: self.axis] + self._axes[self.axis + 1 :]
        return np.stack(np.unravel_index(np.arange(start, stop), others), axis=-1)

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return the row offsets strictly inside ``(start, stop)`` where a row group, a batch or a page begins."""
        if self._readers[0].is_direct:
            return range(start + 1, stop)
        edges = self._readers[0].edges * self._each
        found: list[int] = edges[(edges > start) & (edges < stop)].tolist()
        return found

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)`` in ``out`` when given.

        Raises
        ------
        SourceFormatError
            If a row is of another width than the first, or an integer is null.
        CorruptChunkError
            If what is stored is damaged, or not what the file states of it.
        StorageError, SourcePermissionError
            If the storage fails, or the file may no longer be read.
        """
        if out is None:
            out = np.empty((stop - start, self.shape[1]), self.stored.dtype)
        if stop <= start:
            return out
        if len(self._readers) > 1:
            self._read_columns(start, stop, out)
        elif self._each == 1:
            self._readers[0].write(start, stop, out, self._values)
        else:
            self._read_axes(start, stop, out)
        return out

    def read_memory(self, n_rows: int) -> int:
        """Return an upper estimate of the peak bytes of reading ``n_rows`` rows from a bound, result included."""
        row_bytes = self.shape[1] * self.stored.dtype.itemsize
        extra = max(reader.memory for reader in self._readers)
        if self._each > 1 or len(self._readers) > 1:
            extra += _AT_ONCE + 3 * self._each * row_bytes
        return n_rows * row_bytes + extra + self._table.file.read_memory(n_rows * row_bytes)

    def reopen(self) -> Any:
        """Return the address, with the options if there are any."""
        address = self._table.file.address
        address = f"{address}::{self._inside}" if self._inside else address
        return address if self._options == NO_OPTIONS else Opening(address, self._options)

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash of the file's size and time or tag, of what describes the table, of the columns and axis."""
        digest = blake2b(self._table.header, digest_size=16)
        digest.update(f"{self._table.file.stamp()} {self.uri.partition('::')[2]} {self.axis} {self.n_axes}".encode())
        return digest.hexdigest()

    def storage(self) -> Storage:
        """Return the layout of the table, and the stored size of the columns."""
        facts = list(self._table.facts)
        if self.n_axes > 2:
            axes = " x ".join(f"{n:,}" for n in self._axes)
            facts.append(("axes", f"{axes}, axis {self.axis} that of the features"))
        n_bytes = sum(reader.n_bytes for reader in self._readers)
        return Storage(facts=tuple(facts), n_bytes=n_bytes or None)  # none is stored of a table in memory

    def _null(self, dtype: np.dtype[Any]) -> float | None:
        """Return the number that stands for a null: NaN, or what the options name as no data."""
        if dtype.kind == "f" and self.stored.is_float:
            return float("nan")
        return self.stored.decoding.nodata[0] if self.stored.decoding and self.stored.decoding.nodata else None

    def _read_columns(self, start: int, stop: int, out: Array) -> None:
        """Read columns of numbers side by side."""
        for number, reader in enumerate(self._readers):
            reader.write(start, stop, out[:, number : number + 1], self._values)

    def _read_axes(self, start: int, stop: int, out: Array) -> None:
        """Read rows of the table of which each holds several rows, and move their axis of features last."""
        first, last = start // self._each, -(-stop // self._each)
        inner = self._axes[1:]
        n_rows = max(1, _AT_ONCE // (self._each * out[:1].nbytes))
        for low in range(first, last, n_rows):
            high = min(last, low + n_rows)
            held = np.empty((high - low, prod(inner)), out.dtype)
            self._readers[0].write(low, high, held, self._values)
            rows = np.moveaxis(held.reshape(-1, *inner), self.axis, -1).reshape(-1, self.shape[1])
            begin, end = max(start, low * self._each), min(stop, high * self._each)
            out[begin - start : end - start] = rows[begin - low * self._each : end - low * self._each]
