"""Writer of a sharded zarr v3 array whose numbers mean what those of a source do; it goes on after an interruption."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from rankme_stream.errors import (
    OutputError,
    SourceError,
    SourceFormatError,
    StateError,
    UsageError,
    argument,
    unwritten,
)
from rankme_stream.numerics.decoding import Decoding
from rankme_stream.numerics.dtypes import StoredType
from rankme_stream.sources.zarr.chunk_reader import ChunkReader
from rankme_stream.sources.zarr.codecs.chunk_decoder import ChunkDecoder
from rankme_stream.sources.zarr.codecs.pack import Packed, packed
from rankme_stream.sources.zarr.grids.grid_metadata import chunk_grid
from rankme_stream.sources.zarr.grids.missing_chunks import MissingChunks
from rankme_stream.sources.zarr.source import ZarrSource
from rankme_stream.sources.zarr.stored_values import FolderValues

SUFFIX = ".partial"  # of the folder of an array that is not whole yet
_PROGRESS = "progress.json"
_LEVELS = range(1, 23)  # of zstd
_ABSENT = (2**64 - 1, 2**64 - 1)  # in the index of a shard, in place of a chunk behind the last row


@dataclass(frozen=True)
class ArrayFormat:
    """Format of an array to be written.

    Parameters
    ----------
    n_features
        Features of a row; a chunk holds them all.
    stored
        Type and meaning of the stored numbers.
    chunk_rows, shard_chunks
        Rows of a chunk, and chunks of a shard, which is a file.
    level
        Level of zstd; None for chunks that are not compressed.
    """

    n_features: int
    stored: StoredType
    chunk_rows: int
    shard_chunks: int
    level: int | None

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, not compressed."""
        return self.n_features * self.stored.dtype.itemsize

    @property
    def shard_rows(self) -> int:
        """Rows of a shard."""
        return self.chunk_rows * self.shard_chunks

    def document(self, n_rows: int) -> dict[str, Any]:
        """Return the content of ``zarr.json`` for so many rows.

        Raises
        ------
        UsageError
            If the numbers are decoded by a rule that no metadata declare.
        """
        packing = [] if self.level is None else [_codec("zstd", level=self.level, checksum=False)]
        sizes = {} if self.stored.dtype.itemsize == 1 else {"endian": "little"}
        sharding = {
            "chunk_shape": [self.chunk_rows, self.n_features],
            "codecs": [_codec("bytes", **sizes), *packing, _codec("crc32c")],
            "index_codecs": [_codec("bytes", endian="little"), _codec("crc32c")],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [n_rows, self.n_features],
            "data_type": self.stored.name,
            "chunk_grid": _codec("regular", chunk_shape=[self.shard_rows, self.n_features]),
            "chunk_key_encoding": _codec("default", separator="."),
            "fill_value": "NaN" if self.stored.is_float else 0,
            "codecs": [_codec("sharding_indexed", **sharding)],
            "attributes": _declared(self.stored),
        }


def _codec(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name} | ({"configuration": configuration} if configuration else {})


def _declared(stored: StoredType) -> dict[str, Any]:
    """Return the attributes, of the CF conventions, that say what stored numbers mean."""
    found = stored.decoding or Decoding()
    if not found.is_linear:
        raise UsageError(
            f"{argument('decode')} names a rule that no metadata of an array declare: leave it out, so that the stored "
            "numbers are copied, and give it when the copy is scored"
        )
    least, most = found.valid
    attributes = {
        "scale_factor": None if found.scale == 1.0 else found.scale,
        "add_offset": None if found.offset == 0.0 else found.offset,
        "missing_value": [_number(value, stored) for value in found.nodata] or None,
        "valid_min": None if least is None else _number(least, stored),
        "valid_max": None if most is None else _number(most, stored),
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _number(value: float, stored: StoredType) -> float:
    """Return a stored number as its type writes it in JSON: an integer without a point."""
    return int(value) if not stored.is_float and float(value).is_integer() else value


class UnfinishedArray:
    """Array in a folder beside its place, to which shards are added in order; a context manager.

    The folder holds no metadata of zarr, so that no reader takes it for an array, until the array is whole; then it is
    moved to its place. A folder without a whole shard is removed.

    Parameters
    ----------
    place
        Folder that the array will have; nothing is there.
    is_kept
        Whether a later run can go on from what is written.

    Attributes
    ----------
    rows_done
        Rows in whole shards, which count.

    Raises
    ------
    OutputError
        If the folder cannot be written, or another process writes it.
    """

    def __init__(self, place: Path, *, is_kept: bool) -> None:
        self._place, self._folder, self._is_kept = place, place.with_name(place.name + SUFFIX), is_kept
        self.uri, self.rows_done, self._is_ours = str(self._folder), 0, False
        self._format: ArrayFormat
        self._origin: Mapping[str, Any]
        try:
            self._folder.mkdir(exist_ok=True)
            self._opened = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise unwritten(self.uri, error) from None
        try:
            fcntl.flock(self._opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._opened)
            raise OutputError(f"{self.uri} is being written by another process: wait until it ends") from None
        except OSError:
            pass  # a file system without locks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and self.rows_done and self._is_kept:
            error.add_note(f"{self.rows_done:,} rows are kept in {self.uri}: run again to go on")
        elif self._is_ours:
            shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # it is not empty, or has been moved
            self._folder.rmdir()
        os.close(self._opened)

    def resume(self, origin: Mapping[str, Any], plain: ArrayFormat, n_rows: int | None) -> ArrayFormat | None:
        """Return the format in which an earlier run began to write these rows; None if none did.

        Parameters
        ----------
        origin
            What the rows are: JSON types, equal for equal rows only.
        plain
            Format that they would be written in now, not compressed.
        n_rows
            Number of all rows; None where nothing can be gone on with.

        Raises
        ------
        StateError
            If the folder holds something else: a copy of other rows, or of these before they changed.
        """
        path, remedy = self._folder / _PROGRESS, f"delete {self.uri} to start over, or give another name"
        if n_rows is None or not path.exists():
            if {entry.name for entry in self._folder.iterdir()} - {f"{_PROGRESS}.new"}:
                raise StateError(f"{self.uri} holds files of something else: {remedy}")
            return None
        try:
            record = json.loads(path.read_bytes())
            level, rows_done, document = (record[name] for name in ("level", "rows_done", "document"))
            if level is not None and not (type(level) is int and level in _LEVELS):
                raise ValueError(f"level {level!r}")
            if type(rows_done) is not int or rows_done not in (*range(0, n_rows, plain.shard_rows), n_rows):
                raise ValueError(f"rows {rows_done!r}")
            theirs = replace(plain, level=level)
            is_same = record["origin"] == origin and document == theirs.document(0)
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise StateError(f"{path} is damaged ({' '.join(str(error).split())}): {remedy}") from None
        if not is_same:
            raise StateError(
                f"{self.uri} holds the beginning of a copy of other rows, or of these before they changed: {remedy}"
            )
        shards = (f"c.{number}.0" for number in range(-(-rows_done // plain.shard_rows)))
        if lost := next((name for name in shards if not (self._folder / name).is_file()), None):
            raise StateError(f"{self.uri} has lost {lost}: {remedy}")
        self.rows_done = rows_done
        return theirs

    def begin(self, chosen: ArrayFormat, origin: Mapping[str, Any]) -> None:
        """Choose the format, that of ``resume`` if it returned one, and note what a later run goes on from.

        Raises
        ------
        SourceFormatError
            If numbers of the copy would not mean what those of the source do.
        """
        document = default_buffer_prototype().buffer.from_bytes(json.dumps(chosen.document(1)).encode())
        _check_meaning(ZarrSource(MemoryStore({"zarr.json": document})), chosen)
        self._format, self._origin, self._is_ours = chosen, origin, True
        self.keep(self.rows_done)

    def write_shard(self, chunks: Iterable[Packed]) -> None:
        """Write the next shard; it counts once ``keep`` is called."""
        path = self._folder / f"c.{self.rows_done // self._format.shard_rows}.0"
        unfinished, offset, entries = path.with_name(f"{path.name}.new"), 0, []
        try:
            with open(unfinished, "wb") as file:
                for chunk in chunks:
                    entries.append((offset, chunk.n_bytes))
                    offset += chunk.n_bytes
                    file.writelines((chunk.content.data, chunk.checksum))
                index = packed(np.array(entries + [_ABSENT] * (self._format.shard_chunks - len(entries)), np.uint64))
                file.writelines((index.content.data, index.checksum))
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except OSError as error:
            raise unwritten(self.uri, error) from None
        finally:
            with suppress(OSError):
                unfinished.unlink()

    def reader(self, n_rows: int) -> ChunkReader:
        """Return the reader of ``n_rows`` rows that are written, as it reads any other array."""
        document, stored = self._format.document(n_rows), self._format.stored
        grid = chunk_grid(document, 1, path="", uri=self.uri)
        decoder = ChunkDecoder(document, grid.chunk_shape, stored.dtype, self.uri)
        fill = np.zeros(1, stored.dtype)
        return ChunkReader(FolderValues(self.uri, self.uri), grid, decoder, MissingChunks(grid), fill, self.uri)

    def keep(self, n_rows: int) -> None:
        """Count the rows that are written so far, all of them checked."""
        chosen = self._format
        self._write(_PROGRESS, {
            "rows_done": n_rows, "origin": self._origin, "level": chosen.level, "document": chosen.document(0),
        })  # fmt: skip
        self.rows_done = n_rows

    def discard(self) -> None:
        """Give up what is written: it is removed when the context ends."""
        self.rows_done = 0

    def finish(self) -> int:
        """Make the rows kept an array, and move it to its place; return its bytes.

        Raises
        ------
        OutputError
            If it cannot be written, or something came to its place meanwhile.
        SourceFormatError
            If its numbers would not mean what those of the source do.
        """
        self._write("zarr.json", self._format.document(self.rows_done))
        try:
            _check_meaning(ZarrSource(self.uri), self._format)  # a group around it may declare something, too
        except SourceError:
            (self._folder / "zarr.json").unlink()
            raise
        try:
            os.rename(self._folder, self._place)
            (self._place / _PROGRESS).unlink()
            self._is_ours = False
            with os.scandir(self._place) as entries:
                return sum(entry.stat().st_size for entry in entries)
        except OSError as error:
            raise unwritten(self.uri, error) from None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a document whole or not at all."""
        path = self._folder / f"{name}.new"
        try:
            with open(path, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=2, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(path, self._folder / name)
            with suppress(OSError):  # some file systems sync no folder
                os.fsync(self._opened)
        except OSError as error:
            raise unwritten(self.uri, error) from None


def _check_meaning(copy: ZarrSource, chosen: ArrayFormat) -> None:
    """Refuse a copy whose numbers do not mean what they are to mean."""
    found, wanted = copy.stored, chosen.stored
    if found.name != wanted.name or _unnamed(found) != _unnamed(wanted):
        raise SourceFormatError(
            f"a copy of {wanted.description} would be read as {found.description}: no metadata of {copy.uri} say it"
        )


def _unnamed(stored: StoredType) -> Decoding:
    """Return the decoding of a type, whatever declares it."""
    return replace(stored.decoding or Decoding(), source="")
