"""Messages of Arrow files and streams: the schema, and where the buffers of each batch of rows lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa

from rankme_stream.errors import CorruptChunkError, RankMeError, SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.stored_file import OpenFile
from rankme_stream.sources.tables.flatbuffer import FlatbufferError, FlatTable

MAGIC = b"ARROW1"
_CONTINUES = b"\xff\xff\xff\xff"
_BEGINNING_BYTES = 2**10  # read at once: the description of most messages
_LARGEST = 2**26  # bytes of a description
_MOST_ROWS = 2**40
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_DICTIONARIES, _BATCHES = 2, 3  # fields of a footer
_CODECS = ("lz4", "zstd")


class Batch(NamedTuple):
    """Batch of rows.

    Attributes
    ----------
    n_rows
        Number of rows.
    body
        Offset of its buffers in the file.
    nodes
        Number of entries and of nulls of each field; shape ``(fields, 2)``, int64.
    buffers
        Offset in the body, and length, of each buffer; shape ``(buffers, 2)``, int64.
    codec
        Compression of each buffer; None without.
    n_views
        Number of further buffers of each field of views; shape ``(fields of views,)``, int64.
    """

    n_rows: int
    body: int
    nodes: Array
    buffers: Array
    codec: str | None
    n_views: Array


class _Message(NamedTuple):
    kind: int
    header: FlatTable
    content: bytes
    body: int
    stop: int


def read_schema(file: OpenFile, uri: str) -> Any:
    """Return the schema of an Arrow file or stream.

    Raises
    ------
    SourceFormatError
        If it is neither, or of a version or byte order that is not read.
    CorruptChunkError
        If it is damaged.
    """
    header, described = _described(file, uri)
    if header.number(0, "h"):
        raise SourceFormatError(f"{uri} holds numbers of the other byte order, which is not read: write it again")
    with _verified(uri):
        if not _is_file(file):
            schema = pa.ipc.read_schema(pa.BufferReader(described))
        else:
            whole = MAGIC + bytes(2) + described + len(described).to_bytes(4, "little") + MAGIC
            schema = pa.ipc.open_file(pa.BufferReader(whole)).schema
        _decode_names(schema)
        if not _is_file(file) or file.read(8, len(_CONTINUES)) != _CONTINUES:
            return schema
        message = _message(file, 8, uri)
        if message is not None and message.kind == _SCHEMA and not message.header.number(0, "h"):
            first = pa.ipc.read_schema(pa.BufferReader(message.content))
            _decode_names(first)
            if first.equals(schema):
                return schema
    raise _damaged(uri, "its first message and its footer describe different columns")


def _described(file: OpenFile, uri: str) -> tuple[FlatTable, bytes]:
    """Return the schema of a file or stream, and the bytes that it lies in: the footer, or the first message.

    Before the batches of a file, polars writes no message; readers of files look at the footer alone.
    """
    if _is_file(file):
        footer = _footer(file, uri)
        try:
            found = FlatTable(footer).table(1)
        except FlatbufferError as error:
            raise _damaged(uri, str(error)) from error
        if found is None:
            raise _damaged(uri, "its footer describes no columns")
        return found, footer
    message = _message(file, 0, uri)
    if message is None or message.kind != _SCHEMA:
        raise SourceFormatError(f"{uri} is no Arrow file or stream, whatever its name: it does not begin with a schema")
    return message.header, message.content


def batches(file: OpenFile, uri: str) -> Iterator[Batch]:
    """Yield the batches of rows, in order; raises as ``read_schema``."""
    places = _places_of_file(file, uri) if _is_file(file) else None
    for message in _messages(file, uri) if places is None else (_message_in(file, at, uri) for at in places):
        if message is None:
            raise _damaged(uri, "a batch is missing")
        if message.kind == _BATCH:
            yield _batch(message, uri)
        elif places is not None or message.kind not in (_SCHEMA, _DICTIONARY):
            raise _damaged(uri, f"a message of kind {message.kind} stands where a batch is expected")


def dictionary(file: OpenFile, uri: str, path: tuple[int, ...]) -> Batch:
    """Return the values of a column that is stored as numbers of values, as a batch of one field.

    Parameters
    ----------
    path
        Number of the column, and of the fields of structures in it.

    Raises
    ------
    SourceFormatError
        If they are written in several pieces.
    CorruptChunkError
        If they are not there.
    """
    schema, _ = _described(file, uri)
    try:
        fields = schema.tables(1)
        for number in path[:-1]:
            fields = fields[number].tables(5)
        encoding = fields[path[-1]].table(4)
        number = 0 if encoding is None else encoding.number(0, "q")
        places = _places_of_file(file, uri, _DICTIONARIES) if _is_file(file) else None
        messages = _messages(file, uri) if places is None else (_message_in(file, at, uri) for at in places)
        found = [one for one in messages if one and one.kind == _DICTIONARY and one.header.number(0, "q") == number]
        inner = found[0].header.table(1) if found else None
    except (FlatbufferError, IndexError) as error:
        raise _damaged(uri, str(error)) from error
    if inner is None:
        raise _damaged(uri, "the values of a dictionary are missing")
    if len(found) > 1:
        raise SourceFormatError(f"{uri} writes the values of a dictionary in several pieces: write it in one batch")
    return _batch(found[0]._replace(header=inner), uri)


def _is_file(file: OpenFile) -> bool:
    return file.read(0, len(MAGIC)) == MAGIC


def _footer(file: OpenFile, uri: str) -> bytes:
    tail = file.read(max(0, file.n_bytes - 10), 10)
    length = int.from_bytes(tail[:4], "little", signed=True)
    start = file.n_bytes - 10 - length
    if tail[4:] != MAGIC or not 0 < length <= _LARGEST or start < 8:
        raise CorruptChunkError(f"{uri} does not end as an Arrow file does: it is cut; copy or write it again")
    return file.read(start, length)


def _places_of_file(file: OpenFile, uri: str, field: int = _BATCHES) -> list[tuple[int, int, int]]:
    """Return offset, and bytes of description and body, of the messages that a field of the footer of a file lists."""
    try:
        blocks = FlatTable(_footer(file, uri)).numbers(field, 3)
    except FlatbufferError as error:
        raise _damaged(uri, str(error)) from error
    return [(at, described & 0xFFFFFFFF, body) for at, described, body in blocks.tolist()]


def _message_in(file: OpenFile, place: tuple[int, int, int], uri: str) -> _Message | None:
    """Return the message at a place that the footer lists; refuse one of other lengths."""
    at, described, body = place
    message = _message(file, at, uri)
    if message is not None and (at % 8 or (message.body - at, message.stop - message.body) != (described, body)):
        raise _damaged(uri, f"the batch at byte {at:,} is not as long as the footer says")
    return message


def _decode_names(fields: Any) -> None:
    """Decode the names of fields and of those in them, which raises ValueError where one is no text."""
    for field in fields:
        _ = field.name
        _decode_names(field.type.field(number) for number in range(field.type.num_fields))


@contextmanager
def _verified(uri: str) -> Iterator[None]:
    """Raise errors of pyarrow, which verifies what it reads, as ours."""
    try:
        yield
    except RankMeError:
        raise
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise _damaged(uri, f"pyarrow refuses it ({' '.join(str(error).split())})") from error


def _messages(file: OpenFile, uri: str) -> Iterator[_Message]:
    """Yield the messages of a stream."""
    at = 0
    while (message := _message(file, at, uri)) is not None:
        yield message
        at = message.stop


def _message(file: OpenFile, at: int, uri: str) -> _Message | None:
    """Return the message at an offset; None at the end of a stream."""
    if at == file.n_bytes:
        return None
    beginning = file.read(at, _BEGINNING_BYTES) if 0 <= at < file.n_bytes else b""
    if beginning[:4] != _CONTINUES:
        raise SourceFormatError(
            f"{uri} has no message of Arrow at byte {at:,}: it is damaged, or was written before Arrow 0.15; write it "
            "again"
        )
    length = int.from_bytes(beginning[4:8], "little", signed=True)
    if len(beginning) >= 8 and not length:
        return None
    if not 0 < length <= _LARGEST or at + 8 + length > file.n_bytes:
        raise _damaged(uri, f"the description at byte {at:,} has {length:,} bytes")
    content = beginning[: 8 + length] if 8 + length <= len(beginning) else file.read(at, 8 + length)
    try:
        found = FlatTable(content[8:])
        header, n_bytes, stated = found.table(2), found.number(3, "q"), found.place(3)
        kind = found.number(1, "B")
    except FlatbufferError as error:
        raise _damaged(uri, f"the description at byte {at:,} is none ({error})") from error
    body = at + 8 + length
    if header is None or not 0 <= n_bytes <= file.n_bytes - body:
        raise _damaged(uri, f"the message at byte {at:,} states {n_bytes:,} bytes")
    alone = bytearray(content)
    if stated is not None:
        alone[8 + stated : 16 + stated] = bytes(8)  # a body of no bytes
    with _verified(uri):
        pa.ipc.read_message(pa.BufferReader(alone))
    return _Message(kind, header, content, body, body + n_bytes)


def _batch(message: _Message, uri: str) -> Batch:
    """Return what a message says of a batch; refuse buffers outside it."""
    try:
        n_rows = message.header.number(0, "q")
        nodes, buffers = message.header.numbers(1, 2), message.header.numbers(2, 2)
        compression, n_views = message.header.table(3), message.header.numbers(4, 1)[:, 0]
        codec = None if compression is None else _CODECS[compression.number(0, "B")]
    except (FlatbufferError, IndexError) as error:
        raise _damaged(uri, f"the batch at byte {message.body:,} is none ({error})") from error
    size = message.stop - message.body
    if not len(nodes):
        raise _damaged(uri, f"the batch at byte {message.body:,} has no columns")
    if (
        not 0 <= n_rows <= _MOST_ROWS
        or (nodes > _MOST_ROWS).any()
        or (nodes[:, 0] < 0).any()
        or (nodes[:, 1] > nodes[:, 0]).any()
    ):
        raise _damaged(uri, f"the batch at byte {message.body:,} states {n_rows:,} rows")
    if (buffers < 0).any() or (buffers > size).any() or (buffers.sum(axis=1) > size).any() or (n_views < 0).any():
        raise _damaged(uri, f"the batch at byte {message.body:,} has buffers outside its {size:,} bytes")
    return Batch(n_rows, message.body, nodes, buffers, codec, n_views)


def _damaged(uri: str, fault: str) -> CorruptChunkError:
    return CorruptChunkError(f"{uri} is damaged: {fault}; copy or write it again")
