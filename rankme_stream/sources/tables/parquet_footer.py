"""Footer of a Parquet file: its schema, its row groups, and where their columns lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rankme_stream.errors import CorruptChunkError, RankMeError, SourceFormatError
from rankme_stream.sources.stores.stored_file import StoredFile
from rankme_stream.sources.tables.columns import Column
from rankme_stream.sources.tables.parquet_pages import Chunk
from rankme_stream.sources.tables.parquet_piece import MAGIC, ColumnSchema
from rankme_stream.sources.tables.thrift import Struct, ThriftError, read_struct

_TAIL_BYTES = 2**16  # read at once: most footers
_LARGEST = 2**26
_CHECKED = 2**22  # bytes of a footer, of thousands of row groups, whose histograms are checked: a second
_BYTE_ARRAY = 6
_MOST_ELEMENTS = 2**17
_DEEPEST = 32
_REQUIRED, _OPTIONAL, _REPEATED = range(3)
ARROW_ERRORS = (pa.ArrowException, OSError, ValueError, MemoryError)  # of pyarrow, for bytes that it cannot take


class Footer:
    """Footer of a Parquet file.

    Attributes
    ----------
    schema
        Schema as Arrow has it.
    n_rows, edges
        Rows in all, and the first of each row group and the end; shape ``(groups + 1,)``.
    n_bytes
        Bytes of the file before the footer.
    digest
        Hash of the footer.

    Raises
    ------
    SourceFormatError
        If it is no Parquet file, or one that is encrypted or too deep.
    CorruptChunkError
        If the file is cut, or its footer is none.
    """

    def __init__(self, file: StoredFile) -> None:
        self.uri = file.uri
        content, self.n_bytes = _footer_bytes(file)
        try:
            head, _ = read_struct(content, until=None if len(content) <= _CHECKED else 2)
            self._elements: list[Struct] = head[2][1][1]
            self._leaves = _leaves(self._elements)
            _check_histograms(head.get(4, (0, (0, [])))[1][1], [self._levels(path) for path in self._leaves])
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise CorruptChunkError(f"{self.uri} has a damaged footer ({error}): copy or write it again") from error
        self.digest = blake2b(content, digest_size=16).digest()
        whole = MAGIC + content + len(content).to_bytes(4, "little") + MAGIC
        with arrow_errors(f"the footer of {self.uri}"):
            self._metadata = parquet.read_metadata(pa.BufferReader(whole))
            self.schema = self._metadata.schema.to_arrow_schema()
        groups = [self._metadata.row_group(number).num_rows for number in range(self._metadata.num_row_groups)]
        self.edges = np.concatenate([[0], np.cumsum(np.array(groups, np.int64))])
        self.n_rows = int(self._metadata.num_rows)
        if min(groups, default=0) < 0 or int(self.edges[-1]) != self.n_rows:
            raise CorruptChunkError(
                f"{self.uri} states {self.n_rows:,} rows, and its row groups {int(self.edges[-1]):,}: write it again"
            )

    def column_schema(self, column: Column) -> ColumnSchema:
        """Return how Parquet describes a column."""
        path = self._leaves[column.leaf] if column.leaf < len(self._leaves) else (0,)
        elements = tuple(self._elements[number] for number in path)
        names = tuple(element.get(4, (0, b""))[1] for element in elements[1:])
        path_name = b".".join(names).decode("utf-8", "replace")
        if not f"{path_name}.".startswith(f"{column.name}.") or 1 not in elements[-1]:
            raise SourceFormatError(f"{self.uri}::{column.name} is stored in a way that is not read: write it again")
        definition, repetition, _ = self._levels(path)
        return ColumnSchema(elements, names, definition, repetition)

    def _levels(self, path: Sequence[int]) -> tuple[int, int, int]:
        """Return the levels of definition and of repetition, and the type, of a column."""
        kinds = [self._elements[number].get(3, (0, _REQUIRED))[1] for number in path[1:]]
        kind = self._elements[path[-1]].get(1, (0, -1))[1]
        return sum(one != _REQUIRED for one in kinds), sum(one == _REPEATED for one in kinds), kind

    def chunk(self, group: int, column: Column) -> tuple[Chunk, str]:
        """Return a column in a row group, and the name of its compression.

        Raises
        ------
        SourceFormatError, CorruptChunkError
            If it lies in another file, or not within this one.
        """
        found = self._metadata.row_group(group).column(column.leaf)
        if found.file_path:
            raise SourceFormatError(f"{self.uri}::{column.name} lies in another file: read that one")
        if found.physical_type != self._metadata.schema.column(column.leaf).physical_type:
            raise CorruptChunkError(f"{self.uri}::{column.name} is of two types: the file is damaged; write it again")
        offsets = [found.data_page_offset]
        if found.has_dictionary_page and found.dictionary_page_offset:
            offsets.append(found.dictionary_page_offset)
        start, n_rows = min(offsets), int(self.edges[group + 1] - self.edges[group])
        stop = start + found.total_compressed_size
        if not n_rows and not found.num_values:  # which some writers state at byte 0
            start = stop = len(MAGIC)
        if not len(MAGIC) <= start <= stop <= self.n_bytes or found.num_values < 0:
            raise CorruptChunkError(
                f"{self.uri}::{column.name} should lie in bytes {start:,}-{stop:,} of {self.n_bytes:,}: the file is "
                "cut or damaged; copy or write it again"
            )
        chunk = Chunk(
            start, stop, found.num_values, int(self.edges[group]), n_rows, found.total_uncompressed_size,
            found.compression == "UNCOMPRESSED", f"{self.uri}::{column.name}",
        )  # fmt: skip
        return chunk, found.compression


def _check_histograms(groups: Sequence[Struct], levels: Sequence[tuple[int, int, int]]) -> None:
    """Refuse histograms of levels that do not fit a column: where they are looked at, pyarrow 26 ends the process."""
    for group in groups:
        for column, (definition, repetition, kind) in zip(group[1][1][1], levels, strict=True):
            sizes: Struct = column[3][1].get(16, (0, {}))[1] if 3 in column else {}
            for field, most in ((2, repetition), (3, definition)):
                if len(sizes.get(field, (0, (0, [])))[1][1]) not in (0, most + 1):
                    raise ThriftError("a histogram of levels has another length than there are levels")
            if 1 in sizes and kind != _BYTE_ARRAY:
                raise ThriftError("bytes of strings are stated for numbers")


@contextmanager
def arrow_errors(place: str) -> Iterator[None]:
    """Raise errors of pyarrow as ours; ``place`` is what was read."""
    try:
        yield
    except RankMeError:
        raise
    except ARROW_ERRORS as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise CorruptChunkError(f"{place} cannot be decoded: {text}; copy or write it again") from error


def _footer_bytes(file: StoredFile) -> tuple[bytes, int]:
    """Return the footer and its offset."""
    with file.opened() as opened:
        n_bytes = opened.n_bytes
        tail = opened.read(max(0, n_bytes - _TAIL_BYTES), _TAIL_BYTES)
        head = opened.read(0, 4)
        if head == b"PARE" or tail[-4:] == b"PARE":
            raise SourceFormatError(f"{file.uri} is encrypted, which is not read: write it without encryption")
        if head != MAGIC:
            what = f"it begins with {head!r}" if head else "it is empty"
            raise SourceFormatError(f"{file.uri} is no Parquet file, whatever its name: {what}")
        if tail[-4:] != MAGIC or n_bytes < 12:
            raise CorruptChunkError(f"{file.uri} does not end as Parquet does: it is cut; copy or write it again")
        length = int.from_bytes(tail[-8:-4], "little")
        start = n_bytes - 8 - length
        if start < len(MAGIC) or length > _LARGEST:
            raise CorruptChunkError(
                f"{file.uri} states a footer of {length:,} bytes in a file of {n_bytes:,}, where {_LARGEST:,} are the "
                "most: it is damaged; write it again"
            )
        footer = tail[-8 - length : -8] if length + 8 <= len(tail) else opened.read(start, length)
    return footer, start


def _leaves(elements: Sequence[Struct]) -> list[tuple[int, ...]]:
    """Return the numbers of the elements from the root to each column."""
    if len(elements) > _MOST_ELEMENTS:
        raise ThriftError(f"{len(elements):,} columns")
    found: list[tuple[int, ...]] = []
    open_groups: list[list[int]] = []  # number of an element, and of its children to come
    for number, element in enumerate(elements):
        n_children = element.get(5, (0, 0))[1]
        if number and not open_groups:
            raise ThriftError("columns outside the schema")
        if open_groups:
            open_groups[-1][1] -= 1
        path = (*(group[0] for group in open_groups), number)
        if n_children:
            open_groups.append([number, n_children])
        elif number:
            found.append(path)
        if len(open_groups) > _DEEPEST:
            raise ThriftError(f"columns nested more than {_DEEPEST} deep")
        while open_groups and open_groups[-1][1] <= 0:
            open_groups.pop()
    if open_groups:
        raise ThriftError("the schema is cut")
    return found
