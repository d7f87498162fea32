"""A file of JSON and arrays: versioned, checksummed, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Self, TypedDict

import numpy as np

from rankme_stream.errors import StateError, unwritten
from rankme_stream.numerics.dtypes import Array
from rankme_stream.passes.state import typed_json
from rankme_stream.sources.stores.regular_file import check_replaceable, reason, regular_file

MAGIC = b"rankme-state\n"  # first bytes of a file
VERSION = 2
HOST_DIGEST = blake2b(platform.node().encode(), digest_size=4).hexdigest()  # process numbers are a machine's own

_VERSION = struct.Struct("<I")
_LOCATION = struct.Struct("<QQ")  # first byte of the description, and its length
_DIGEST_BYTES = 32
_PIECE_BYTES = 2**20
_ALIGNMENT = 8

_DTYPES = r"\|b1|\|[iu]1|<[iuf][248]"  # of arrays
_MOST_VALUES = 2**59  # of an array, were no dimension of length zero

Record = tuple[Mapping[str, Any], Mapping[str, Array]]


def write(path: Path, plain: Mapping[str, Any], records: Iterable[Record]) -> int:
    """Write a file in place of what was at ``path``; return its bytes.

    Parameters
    ----------
    plain
        JSON types.
    records
        JSON types and arrays of numbers or booleans; taken one after another.

    Raises
    ------
    OutputError
        If it cannot be written; the file at ``path`` is then unchanged.

    Notes
    -----
    Layout: magic, version, arrays (little-endian, C order, aligned), their description and ``plain`` (JSON), location
    of the description, BLAKE2b of all that. The bytes reach the disk before the file is renamed to ``path``.
    """
    return _write_whole(path, plain, records, os.replace)


def create(path: Path, plain: Mapping[str, Any], records: Iterable[Record]) -> bool:
    """Write a file as ``write`` does unless something is at ``path``; return whether it was written.

    Of several writers one succeeds, unless the file system has no hard links: then the last may replace the others'.
    """
    try:
        _write_whole(path, plain, records, _give_new_name)
    except FileExistsError:
        return False
    return True


def _write_whole(
    path: Path, plain: Mapping[str, Any], records: Iterable[Record], give_name: Callable[[Path, Path], None]
) -> int:
    temporary = path.with_name(f".{path.name}.{HOST_DIGEST}-{os.getpid()}-{secrets.token_hex(4)}.new")
    try:
        try:
            check_replaceable(path)
            with open(temporary, "wb") as file:
                n_bytes = _write(file, plain, records)
                file.flush()
                os.fsync(file.fileno())
            give_name(temporary, path)
            _sync(path.parent)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    except FileExistsError:
        raise
    except OSError as error:
        raise unwritten(path, error) from None
    return n_bytes


def _give_new_name(temporary: Path, path: Path) -> None:
    """Name a file ``path``; raise ``FileExistsError`` if another has that name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(temporary, path)


def _write(file: IO[bytes], plain: Mapping[str, Any], records: Iterable[Record]) -> int:
    digest, n_bytes = blake2b(digest_size=_DIGEST_BYTES), 0

    def put(piece: bytes | memoryview) -> None:
        nonlocal n_bytes
        if not piece:
            return
        file.write(piece)
        digest.update(piece)
        n_bytes += len(piece)

    put(MAGIC + _VERSION.pack(VERSION))
    described = []
    for fields, arrays in records:
        described_arrays = {}
        for name, array in arrays.items():
            array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
            put(b"\0" * (-n_bytes % _ALIGNMENT))
            described_arrays[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "start": n_bytes}
            put(array.reshape(-1).view(np.uint8).data)
        described.append(dict(fields) | {"arrays": described_arrays})
    description = json.dumps({"plain": plain, "records": described}, allow_nan=False).encode()
    start = n_bytes
    put(description)
    put(_LOCATION.pack(start, len(description)))
    file.write(digest.digest())
    return n_bytes + _DIGEST_BYTES


def _sync(folder: Path) -> None:
    """Make the rename durable; a file system that cannot sync a folder still keeps the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of writers of ``path`` that were killed on this machine."""
    pattern = re.compile(re.escape(f".{path.name}.{HOST_DIGEST}-") + r"(\d+)(?:-[0-9a-f]{8})?\.new")
    with suppress(OSError):
        for entry in os.scandir(path.parent):
            match = pattern.fullmatch(entry.name)
            if match and not _is_alive(int(match[1])):
                os.unlink(entry.path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


class _ArrayDescription(TypedDict):
    dtype: str
    shape: list[int]
    start: int


class _RecordDescription(TypedDict):
    arrays: dict[str, _ArrayDescription]


class _Description(TypedDict):
    plain: dict[str, Any]
    records: list[_RecordDescription]


class StateFile:
    """A file that ``write`` made, verified.

    A context manager that keeps the file open: another may replace it any time.

    Raises
    ------
    StateError
        If there is no such file, or it is of another kind, of a newer version, or damaged, or does not describe arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as stack:
            try:
                self._file = stack.enter_context(regular_file(path))
                description = self._read_description(self._file)
            except FileNotFoundError:
                raise StateError(f"there is no {path}") from None
            except OSError as error:
                raise StateError(f"{path} cannot be read: {reason(error)}") from None
            self._stack = stack.pop_all()
        self.plain = description["plain"]
        self._records = description["records"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def records(self) -> Iterator[tuple[dict[str, Any], dict[str, Array]]]:
        """Read one record after another."""
        try:
            for fields in self._records:
                yield dict(fields), {name: self._array(described) for name, described in fields["arrays"].items()}
        except OSError as error:
            raise StateError(f"{self.path} cannot be read: {error.strerror or error}") from None

    def _array(self, described: _ArrayDescription) -> Array:
        dtype, shape = np.dtype(described["dtype"]), tuple(described["shape"])
        array = np.empty(shape, dtype)
        self._file.seek(described["start"])
        if array.nbytes and self._file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
            raise StateError(f"{self.path} was cut short while it was read")
        return array.astype(dtype.newbyteorder("="), copy=False)

    def _read_description(self, file: IO[bytes]) -> _Description:
        """Return the description, after a check that the file is as it was written."""
        head = file.read(len(MAGIC) + _VERSION.size)
        if not head.startswith(MAGIC):
            raise StateError(f"{self.path} is no state file of rankme: check the name")
        (version,) = _VERSION.unpack(head[len(MAGIC) :].ljust(_VERSION.size, b"\0"))
        if version > VERSION:
            raise StateError(f"{self.path} is of version {version}, newer than {VERSION}: upgrade rankme-stream")
        n_bytes = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
        digest, left, last = blake2b(head, digest_size=_DIGEST_BYTES), n_bytes - len(head), b""
        while left > 0:
            piece = file.read(min(left, _PIECE_BYTES))
            if not piece:
                break
            digest.update(piece)
            left, last = left - len(piece), (last + piece)[-_LOCATION.size :]
        if left or len(last) < _LOCATION.size or file.read() != digest.digest():
            raise StateError(
                f"{self.path} is damaged: its checksum does not match its content; take an earlier copy, or delete it "
                "and start over"
            )
        with self.refusing():
            return self._described(file, n_bytes - _LOCATION.size, *_LOCATION.unpack(last))

    def _described(self, file: IO[bytes], end: int, start: int, length: int) -> _Description:
        """Return the description, after a check that it describes arrays that lie one after another before it."""
        if start + length != end:
            raise StateError("its description is not where its end says")
        file.seek(start)
        description: _Description = typed_json.parse(file.read(length), end)
        typed_json.check(description, _Description, "its description")
        free = len(MAGIC) + _VERSION.size
        for record in description["records"]:
            for name, array in record["arrays"].items():
                n_values = math.prod(length or 1 for length in array["shape"])
                if not re.fullmatch(_DTYPES, array["dtype"]) or n_values >= _MOST_VALUES:
                    raise StateError(f"an array has a type or shape that is never written: {name[:40]!a}")
                free += -free % _ALIGNMENT
                if array["start"] != free:
                    raise StateError(f"an array is not behind the one before it: {name[:40]!a}")
                free += math.prod(array["shape"]) * np.dtype(array["dtype"]).itemsize
        if free != start:
            raise StateError("its arrays do not end where their description begins")
        return description

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Add to a ``StateError`` which file it is about, for content that no writer of ours makes."""
        try:
            yield
        except StateError as error:
            raise StateError(
                f"{self.path} is no state that rankme writes, though its checksum is right: {error}; take an earlier "
                "copy, or delete it and start over"
            ) from None
