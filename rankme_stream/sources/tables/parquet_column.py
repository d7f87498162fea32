"""A column of a Parquet file, read in runs of pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.stored_file import OpenFile, StoredFile
from rankme_stream.sources.tables.columns import Column
from rankme_stream.sources.tables.list_values import RowValues, first_widths
from rankme_stream.sources.tables.parquet_footer import Footer, arrow_errors
from rankme_stream.sources.tables.parquet_pages import Chunk, Pages, find_pages
from rankme_stream.sources.tables.parquet_piece import Run, decoded

_AT_ONCE = 8 * 2**20  # bytes of pages, and of values, that are decoded together
_ON_SERVERS = 32 * 2**20  # bytes of a column in a row group that is requested whole: its pages take a request each
_GROUPS_AT_ONCE = 64
_LEVEL_BYTES = 8  # of each value while it is decoded: its levels, twice
_BATCHES = 12 * 2**20  # of values decoded and handed out


class _Units(NamedTuple):
    """Rows of row groups that are decoded by themselves.

    Attributes
    ----------
    edges
        First row of each, and the end; shape ``(units + 1,)``.
    n_bytes
        Most bytes that decoding each takes; shape ``(units,)``.
    """

    edges: Array
    n_bytes: Array


class _Held(NamedTuple):
    """Bytes of a file that were read already, from an offset on."""

    content: bytes
    offset: int

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return so many of them."""
        return self.content[offset - self.offset : offset - self.offset + n_bytes]


class ParquetColumn:
    """Column of a Parquet file; any rows of it can be read, by several threads at once.

    Parameters
    ----------
    value_bytes
        Bytes of a value.

    Attributes
    ----------
    widths
        Lengths of the lists of a row, the outermost first; empty for a number a row.

    Raises
    ------
    SourceFormatError
        If no row has a value.
    CorruptChunkError
        If the file is damaged.
    """

    is_direct = False

    def __init__(self, file: StoredFile, footer: Footer, column: Column, value_bytes: int) -> None:
        self.uri, self._file, self._footer, self._column = f"{file.uri}::{column.name}", file, footer, column
        self._schema = footer.column_schema(column)
        self._value_bytes = value_bytes
        self._pages: dict[int, Pages] = {}
        self._whole_bytes = _ON_SERVERS if file.is_remote else _AT_ONCE
        self._held_units: _Units | None = None
        self.widths = self._found_widths()
        self._row_values = prod(self.widths)
        self._row_bytes = self._row_values * value_bytes

    @property
    def edges(self) -> Array:
        """First row of each unit that is decoded by itself, and the end; shape ``(units + 1,)``."""
        return self._units.edges

    @property
    def memory(self) -> int:
        """Most bytes that reading takes beside its result."""
        n_bytes = self._units.n_bytes
        return max(int(n_bytes.max()), min(_AT_ONCE, int(n_bytes.sum()))) + _BATCHES

    @property
    def n_bytes(self) -> int:
        """Bytes as stored."""
        groups = range(len(self._footer.edges) - 1)
        return sum(
            chunk.stop - chunk.start for chunk, _ in (self._footer.chunk(group, self._column) for group in groups)
        )

    def write(self, start: int, stop: int, out: Array, values: RowValues) -> None:
        """Write rows [start, stop) into ``out``; raises as ``arrays`` and as ``RowValues.write``."""
        row = start
        for rows in self.arrays(start, stop):
            values.write(rows, out[row - start : row - start + len(rows)], row)
            row += len(rows)

    def arrays(self, start: int, stop: int) -> Iterator[Any]:
        """Yield arrays of Arrow with rows [start, stop), in order.

        Raises
        ------
        CorruptChunkError
            If what is stored is damaged, or not what the file states of it.
        StorageError, SourcePermissionError
            If the storage fails.
        """
        with self._file.opened() as file:
            while start < stop:
                runs, end = self._runs(start, stop, file)
                n_found = 0
                with arrow_errors(f"{self.uri}, rows {start:,}-{end - 1:,},"):
                    for rows in decoded(file, self._schema, runs, max(1, self._row_bytes)):
                        n_found += len(rows)
                        yield rows
                if n_found != end - start:
                    raise CorruptChunkError(
                        f"{self.uri} is damaged in rows {start:,}-{end - 1:,}: {n_found:,} rows are there; copy or "
                        "write it again"
                    )
                start = end

    def _runs(self, start: int, stop: int, file: OpenFile) -> tuple[list[Run], int]:
        """Return the pages of rows from ``start`` on that are decoded together, and where these rows end."""
        edges, sizes = self._units
        runs: list[Run] = []
        number, n_bytes = int(np.searchsorted(edges, start, side="right")) - 1, 0
        while start < stop and len(runs) < _GROUPS_AT_ONCE:
            n_bytes += int(sizes[number])
            if runs and n_bytes > _AT_ONCE:
                break
            end = min(stop, int(edges[number + 1]))
            runs.append(self._run(start, end, file))
            start, number = end, number + 1
        return runs, start

    def _run(self, low: int, high: int, file: OpenFile) -> Run:
        """Return the pages of rows [low, high) of one row group."""
        group = int(np.searchsorted(self._footer.edges, low, side="right")) - 1
        chunk, codec = self._footer.chunk(group, self._column)
        held = None
        if self._file.is_remote and chunk.stop - chunk.start <= _ON_SERVERS:
            held = file.read(chunk.start, chunk.stop - chunk.start)
        pages = self._pages_of(group, chunk, file if held is None else _Held(held, chunk.start))
        first = low - chunk.first_row
        begin, end, skip, begins_within = 0, len(pages.decoded), first, False
        if held is None and pages.is_regular(chunk.n_rows * self._row_values):
            begin, end = self._page_range(pages, first, high - chunk.first_row)
            position = int(pages.positions[begin])
            skip = first - -(-position // self._row_values)
            begins_within = position % self._row_values != 0
        span = (int(pages.edges[begin]), int(pages.edges[end]))
        n_values = int(pages.values[begin:end].sum())
        return Run(pages.dictionary, span, codec, n_values, begins_within, skip, high - low, held)

    def _page_range(self, pages: Pages, first: int, last: int) -> tuple[int, int]:
        """Return the numbers [begin, end) of the pages that hold rows [first, last) of a row group."""
        begin = int(np.searchsorted(pages.positions[:-1], first * self._row_values, side="right")) - 1
        if self._schema.repetition > 1:  # a page that begins within a row may begin within one of its lists
            while pages.positions[begin] % self._row_values:
                begin -= 1
        return begin, int(np.searchsorted(pages.positions, last * self._row_values))

    @property
    def _units(self) -> _Units:
        """Units of all row groups; large ones are cut at pages."""
        if self._held_units is None:
            edges, sizes = [0], []
            with self._file.opened() as file:
                for group in range(len(self._footer.edges) - 1):
                    for stop, n_bytes in self._units_of(group, file):
                        edges.append(stop)
                        sizes.append(n_bytes)
            self._held_units = _Units(np.array(edges), np.array(sizes))
        return self._held_units

    def _units_of(self, group: int, file: OpenFile) -> Iterator[tuple[int, int]]:
        """Yield the end of each unit of a row group, and the bytes that decoding it takes."""
        chunk, _ = self._footer.chunk(group, self._column)
        if not chunk.n_rows:
            return
        n_values, each = chunk.n_rows * self._row_values, self._value_bytes + _LEVEL_BYTES
        whole = chunk.stop - chunk.start + 2 * chunk.n_decoded + chunk.n_values * each
        if max(chunk.n_decoded, chunk.n_values * self._value_bytes) <= self._whole_bytes:
            yield chunk.first_row + chunk.n_rows, whole
            return
        pages = self._pages_of(group, chunk, file)
        if not pages.is_regular(n_values):
            yield chunk.first_row + chunk.n_rows, whole
            return
        stored, largest = np.diff(pages.edges), int(pages.decoded.max()) + 2 * pages.dictionary_bytes
        for low, high in pairwise(self._starts(pages, chunk)):
            begin, end = self._page_range(pages, low, high)
            n_bytes = int(stored[begin:end].sum()) + largest + int(pages.values[begin:end].sum()) * each
            yield chunk.first_row + high, n_bytes

    def _starts(self, pages: Pages, chunk: Chunk) -> list[int]:
        """Return the rows where units of a row group begin, and its end."""
        found = [0]
        for position in pages.positions[1:-1].tolist():
            row = -(-position // self._row_values)
            if position % self._row_values and self._schema.repetition > 1:
                continue
            if found[-1] < row < chunk.n_rows and (row - found[-1]) * self._row_bytes >= _AT_ONCE // 16:
                found.append(row)
        return [*found, chunk.n_rows]

    def _pages_of(self, group: int, chunk: Chunk, file: OpenFile | _Held) -> Pages:
        found = self._pages.get(group)
        if found is None:
            found = self._pages[group] = find_pages(file.read, chunk, self._row_values)
        return found

    def _found_widths(self) -> tuple[int, ...]:
        """Return the lengths of the lists of a row: as the type or the footer says, or those of the first row."""
        widths = self._column.widths
        if -1 not in widths:
            return widths
        groups = [group for group in range(len(self._footer.edges) - 1) if self._n_rows(group)]
        with self._file.opened() as file:
            for group in groups:
                found = self._first_widths(group, widths, file)
                if found is not None:
                    return found
        raise SourceFormatError(f"{self.uri} has no row with values, so that there is no width to read")

    def _n_rows(self, group: int) -> int:
        return int(self._footer.edges[group + 1] - self._footer.edges[group])

    def _first_widths(self, group: int, shape: Sequence[int], file: OpenFile) -> tuple[int, ...] | None:
        """Return the lengths of the lists of the first row of a row group that has values."""
        chunk, codec = self._footer.chunk(group, self._column)
        pages = find_pages(file.read, chunk, max(1, chunk.n_values))
        end = min(len(pages.decoded), 1 + int(np.searchsorted(np.cumsum(pages.decoded), _AT_ONCE // 8)))
        span = (int(pages.edges[0]), int(pages.edges[end]))
        run = Run(pages.dictionary, span, codec, int(pages.values[:end].sum()), False, 0, chunk.n_rows)
        with arrow_errors(self.uri):
            for rows in decoded(file, self._schema, [run], _AT_ONCE):
                found = first_widths(rows, shape)
                if found is not None:
                    return found
        return None
