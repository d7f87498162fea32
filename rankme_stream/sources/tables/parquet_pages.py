"""Pages of a column of a Parquet file: where they lie, and that their sizes are those that the file states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rankme_stream.errors import CorruptChunkError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.tables.thrift import Struct, ThriftError, read_struct

_HEADER_BYTES = (2**8, 2**12, 2**16)  # read at once, and more where statistics make a header longer
_DATA, _INDEX, _DICTIONARY, _DATA_V2 = range(4)
_MOST = 2**31  # Parquet's own limit of numbers in pages
Read = Callable[[int, int], bytes]


class Chunk(NamedTuple):
    """Column in a row group: bytes [start, stop) of the file, values as the levels count them, and rows.

    ``uri`` names it in errors.
    """

    start: int
    stop: int
    n_values: int
    first_row: int
    n_rows: int
    n_decoded: int
    is_plain: bool
    uri: str


class Pages(NamedTuple):
    """Pages of a column in a row group.

    Attributes
    ----------
    dictionary
        Bytes of the dictionary: offset of its header in the file, and its end; equal where there is none.
    edges
        Offset in the file of each page of values, and of the end; shape ``(pages + 1,)``.
    values
        Number of values in each page, as levels count them; shape ``(pages,)``.
    positions
        Number of values before each page, and of all, if rows that are null had theirs; shape ``(pages + 1,)``.
    decoded
        Bytes of each page without compression; shape ``(pages,)``.
    dictionary_bytes
        Bytes of the dictionary without compression.
    """

    dictionary: tuple[int, int]
    edges: Array
    values: Array
    positions: Array
    decoded: Array
    dictionary_bytes: int

    def is_regular(self, n_values: int) -> bool:
        """Return whether the positions are those of rows of one width, ``n_values`` in all."""
        return int(self.positions[-1]) == n_values


def find_pages(read: Read, chunk: Chunk, width: int) -> Pages:
    """Return the pages of a column in a row group.

    Parameters
    ----------
    read
        Returns so many bytes of the file from an offset; fewer only where it ends.
    width
        Values of a row.

    Raises
    ------
    CorruptChunkError
        If a header is none, or the sizes of pages do not add up to what the file states.
    """
    at, values, positions = chunk.start, [], [0]
    dictionary, dictionary_bytes, edges, decoded = (at, at), 0, [at], []
    while at < chunk.stop:
        header, length = _header(read, at, chunk)
        kind, n_decoded, n_stored = (_field(header, number, chunk) for number in (1, 2, 3))
        stop = at + length + n_stored
        if stop > chunk.stop or (chunk.is_plain and n_decoded != n_stored):
            raise _corrupt(chunk, f"the page at byte {at:,} has {n_stored:,} bytes")
        if n_decoded > chunk.n_decoded:
            raise _corrupt(chunk, f"the page at byte {at:,} has {n_decoded:,} bytes decoded")
        if kind == _DICTIONARY and at == chunk.start:
            dictionary, dictionary_bytes, edges = (at, stop), n_decoded, [stop]
        elif kind in (_DATA, _DATA_V2):
            found, moved = _values(header, kind, width, chunk)
            values.append(found)
            positions.append(positions[-1] + moved)
            edges.append(stop)
            decoded.append(n_decoded)
        else:
            raise _corrupt(chunk, f"the page at byte {at:,} is of kind {kind}")
        at = stop
    if sum(values) != chunk.n_values or not decoded:
        raise _corrupt(chunk, f"its pages hold {sum(values):,} values")
    return Pages(
        dictionary, np.array(edges), np.array(values), np.array(positions), np.array(decoded), dictionary_bytes
    )


def _values(header: Struct, kind: int, width: int, chunk: Chunk) -> tuple[int, int]:
    """Return the values that a page holds, and those that it would hold if no row were null."""
    inner = header.get(5 if kind == _DATA else 8, (0, None))[1]
    if not isinstance(inner, dict):
        raise _corrupt(chunk, "a page has no header")
    n_values = _field(inner, 1, chunk)
    if kind == _DATA:
        return n_values, n_values
    n_rows = _field(inner, 3, chunk)
    if n_values > n_rows * width:
        raise _corrupt(chunk, f"a page holds {n_values:,} values in {n_rows:,} rows of {width:,}")
    return n_values, n_rows * width


def _header(read: Read, at: int, chunk: Chunk) -> tuple[Struct, int]:
    """Return the header of a page, and its length."""
    fault: Exception | None = None
    for n_bytes in _HEADER_BYTES:
        data = read(at, min(n_bytes, chunk.stop - at))
        try:
            return read_struct(data)
        except ThriftError as error:
            fault = error
        if len(data) < n_bytes:
            break
    raise _corrupt(chunk, f"there is no page at byte {at:,} ({fault})")


def _field(struct: Struct, number: int, chunk: Chunk) -> int:
    value: Any = struct.get(number, (0, None))[1]
    if type(value) is not int or not 0 <= value < _MOST:
        raise _corrupt(chunk, f"the header of a page has {value} for a size")
    return value


def _corrupt(chunk: Chunk, fault: str) -> CorruptChunkError:
    rows = f"rows {chunk.first_row:,}-{chunk.first_row + chunk.n_rows - 1:,}"
    return CorruptChunkError(
        f"{chunk.uri} is damaged in {rows}: {fault}, which is not what the file states of them ({chunk.n_values:,} "
        f"values in {chunk.stop - chunk.start:,} bytes); copy or write it again"
    )
