"""Some pages of a column as a small Parquet file in memory, which pyarrow decodes.

So pages are read where rows are wanted, in bounded memory, by any thread and in any order, and the decoder is that of
the format's own library. The file has the schema of the column and a row group for each run of pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.stored_file import OpenFile
from rankme_stream.sources.tables.thrift import BINARY, I32, I64, LIST, STRUCT, Struct, write_struct

MAGIC = b"PAR1"
_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")
_COMPRESSORS = {"LZ4": "lz4_raw"}  # where pyarrow's name is another
_ENCODINGS = [0, 3, 8]  # which a reader takes from the pages
_BYTES = 6  # type of strings, which are read as numbers of different ones: a long one may be repeated
_BATCH_BYTES = 2**20  # decoded at once: what the levels take stays in the cache


class ColumnSchema(NamedTuple):
    """Column as Parquet describes it.

    Attributes
    ----------
    elements
        Elements of the schema from the root to the column.
    path
        Names of these elements, without the root.
    definition, repetition
        Highest levels.
    """

    elements: tuple[Struct, ...]
    path: tuple[bytes, ...]
    definition: int
    repetition: int


class Run(NamedTuple):
    """Pages of a row group, one after another, and which of their rows are wanted.

    Attributes
    ----------
    dictionary, pages
        Bytes [start, stop) of the file; of the dictionary empty where there is none.
    codec
        Name of the compression.
    n_values
        Values in the pages.
    begins_within
        Whether the first page begins within a row.
    skip, take
        Rows that begin in the pages before the first that is wanted, and rows that are wanted.
    held
        All bytes from the dictionary to the last page, where they were read already.
    """

    dictionary: tuple[int, int]
    pages: tuple[int, int]
    codec: str
    n_values: int
    begins_within: bool
    skip: int
    take: int
    held: bytes | None = None


def decoded(file: OpenFile, column: ColumnSchema, runs: Sequence[Run], row_bytes: int) -> Iterator[Any]:
    """Yield arrays of Arrow with the rows that are wanted, in order; fewer where fewer are stored.

    Raises
    ------
    OSError, ValueError
        As pyarrow does, for bytes that are not what they should be.
    """
    piece = _piece(file, column, runs)
    path = b".".join(column.path).decode("utf-8", "replace")
    opened = parquet.ParquetFile(
        pa.BufferReader(pa.py_buffer(piece)), pre_buffer=False, page_checksum_verification=True,
        read_dictionary=[path] if column.elements[-1][1][1] == _BYTES else None,
    )  # fmt: skip
    for number, run in enumerate(runs):
        skip = run.skip + run.begins_within
        batches = opened.iter_batches(max(1, _BATCH_BYTES // row_bytes), row_groups=[number], use_threads=False)
        for batch in batches:
            rows = batch.column(0)
            for _ in range(len(column.path) - 1):
                if not pa.types.is_struct(rows.type):
                    break
                rows = rows.flatten()[0]
            if skip:
                rows, skip = rows.slice(skip), max(0, skip - len(rows))
            if len(rows):
                yield rows


def _piece(file: OpenFile, column: ColumnSchema, runs: Sequence[Run]) -> Array:
    """Return the bytes of the small file."""
    groups, at = [], len(MAGIC)
    prefixes = [_row_begun(column, run.codec) if run.begins_within else b"" for run in runs]
    for run, prefix in zip(runs, prefixes, strict=True):
        groups.append(_row_group(column, run, at, len(prefix)))
        at += _length(run.dictionary) + len(prefix) + _length(run.pages)
    footer = _footer(column, runs, groups)
    piece = np.empty(at + len(footer), np.uint8)
    piece[: len(MAGIC)] = np.frombuffer(MAGIC, np.uint8)
    piece[at:] = np.frombuffer(footer, np.uint8)
    at = len(MAGIC)
    for run, prefix in zip(runs, prefixes, strict=True):
        for part in (run.dictionary, prefix, run.pages):
            at += _fill(piece[at:], file, run, part)
    return piece


def _fill(out: Array, file: OpenFile, run: Run, part: tuple[int, int] | bytes) -> int:
    """Write bytes, given or of the file, at the beginning of ``out``; return how many they are."""
    if isinstance(part, bytes):
        out[: len(part)] = np.frombuffer(part, np.uint8)
        return len(part)
    start, stop = part
    if run.held is not None:
        first = start - run.dictionary[0]
        out[: stop - start] = np.frombuffer(run.held, np.uint8)[first : first + stop - start]
    elif stop > start:
        file.read_into(out[: stop - start], start, f"bytes {start:,}-{stop:,}")
    return stop - start


def _row_group(column: ColumnSchema, run: Run, at: int, n_prefix: int) -> Struct:
    n_dictionary = _length(run.dictionary)
    n_bytes = n_dictionary + n_prefix + _length(run.pages)
    n_rows = run.skip + run.begins_within + run.take
    chunk: Struct = {
        1: column.elements[-1][1],
        2: (LIST, (I32, _ENCODINGS)),
        3: (LIST, (BINARY, list(column.path))),
        4: (I32, _CODECS.index(run.codec)),
        5: (I64, run.n_values + run.begins_within),
        6: (I64, n_bytes),
        7: (I64, n_bytes),
        9: (I64, at + n_dictionary),
    }
    if n_dictionary:
        chunk[11] = (I64, at)
    return {1: (LIST, (STRUCT, [{2: (I64, at), 3: (STRUCT, chunk)}])), 2: (I64, n_bytes), 3: (I64, n_rows)}


def _footer(column: ColumnSchema, runs: Sequence[Run], groups: list[Struct]) -> bytes:
    n_rows = sum(run.skip + run.begins_within + run.take for run in runs)
    groups_above = [element | {5: (I32, 1)} for element in column.elements[:-1]]
    elements = [*groups_above, column.elements[-1]]
    footer = write_struct({1: (I32, 1), 2: (LIST, (STRUCT, elements)), 3: (I64, n_rows), 4: (LIST, (STRUCT, groups))})
    return footer + struct.pack("<I", len(footer)) + MAGIC


def _row_begun(column: ColumnSchema, codec: str) -> bytes:
    """Return a page with one value, which the row that the next page begins within then begins with."""
    levels = b""
    for highest, level in ((column.repetition, 0), (column.definition, column.definition)):
        if highest:
            run = bytes([2, level])  # a run of one level
            levels += struct.pack("<I", len(run)) + run
    body = levels + bytes(_value_bytes(column.elements[-1]))
    stored = body
    if codec != "UNCOMPRESSED":
        stored = pa.compress(body, codec=_COMPRESSORS.get(codec, codec.lower()), asbytes=True)
    inner: Struct = {1: (I32, 1), 2: (I32, 0), 3: (I32, 3), 4: (I32, 3)}
    return write_struct({1: (I32, 0), 2: (I32, len(body)), 3: (I32, len(stored)), 5: (STRUCT, inner)}) + stored


def _value_bytes(element: Struct) -> int:
    """Return the bytes of a value by its type: INT32, INT64, FLOAT, DOUBLE, or of a fixed length."""
    kind = element[1][1]
    sizes = {1: 4, 2: 8, 4: 4, 5: 8}
    return sizes[kind] if kind in sizes else int(element[2][1])


def _length(span: tuple[int, int]) -> int:
    return span[1] - span[0]
