"""A file of JSON and arrays: versioned, checksummed, written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from rankme_stream.errors import OutputError, StateError
from rankme_stream.numerics.dtypes import Array

VERSION = 1

_MAGIC = b"rankme-state\n"
_VERSION = struct.Struct("<I")
_PLACE = struct.Struct("<QQ")  # where the description begins, and its bytes
_DIGEST_BYTES = 32
_PIECE_BYTES = 2**20
_ALIGNMENT = 8
_HOST = blake2b(platform.node().encode(), digest_size=4).hexdigest()  # process numbers are a machine's own

Record = tuple[Mapping[str, Any], Mapping[str, Array]]


def write(path: Path, plain: Mapping[str, Any], records: Iterable[Record]) -> int:
    """Write a file in place of what was at ``path``; return its bytes.

    Parameters
    ----------
    plain
        JSON types.
    records
        JSON types and arrays, of numbers or booleans; taken one after another.

    Raises
    ------
    OutputError
        If it cannot be written; what was at ``path`` is still there then.

    Notes
    -----
    Magic, version, arrays (little-endian, C order, aligned), their description and ``plain`` (JSON), place of the
    description, BLAKE2b of all that. The bytes reach the disk before the file takes its place.
    """
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.new")
    try:
        try:
            with open(temporary, "wb") as file:
                n_bytes = _write(file, plain, records)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync(path.parent)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
    return n_bytes


def _write(file: IO[bytes], plain: Mapping[str, Any], records: Iterable[Record]) -> int:
    digest, n_bytes = blake2b(digest_size=_DIGEST_BYTES), 0

    def put(piece: bytes | memoryview) -> None:
        nonlocal n_bytes
        if not piece:
            return
        file.write(piece)
        digest.update(piece)
        n_bytes += len(piece)

    put(_MAGIC + _VERSION.pack(VERSION))
    described = []
    for fields, arrays in records:
        places = {}
        for name, array in arrays.items():
            array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
            put(b"\0" * (-n_bytes % _ALIGNMENT))
            places[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "start": n_bytes}
            put(array.reshape(-1).view(np.uint8).data)
        described.append(dict(fields) | {"arrays": places})
    description = json.dumps({"plain": plain, "records": described}, allow_nan=False).encode()
    start = n_bytes
    put(description)
    put(_PLACE.pack(start, len(description)))
    file.write(digest.digest())
    return n_bytes + _DIGEST_BYTES


def _sync(folder: Path) -> None:
    """Make the new name last; some file systems cannot, and keep the file all the same."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(path: Path) -> None:
    """Remove what writers of ``path`` on this machine that were killed left beside it."""
    pattern = re.compile(re.escape(f".{path.name}.{_HOST}-") + r"(\d+)\.new")
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


class StateFile:
    """A file that ``write`` made, checked; a context, because it stays open: another may take its place any time.

    Raises
    ------
    StateError
        If there is none, it is of another kind, of a newer version, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as stack:
            try:
                self._file = stack.enter_context(open(path, "rb"))
                description = self._checked(self._file)
            except FileNotFoundError:
                raise StateError(f"there is no {path}") from None
            except OSError as error:
                raise StateError(f"{path} cannot be read: {error.strerror or error}") from None
            self._stack = stack.pop_all()
        self.plain: dict[str, Any] = description["plain"]
        self._records: list[dict[str, Any]] = description["records"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def records(self) -> Iterator[tuple[dict[str, Any], dict[str, Array]]]:
        """Read one record after another."""
        try:
            for fields in self._records:
                yield fields, {name: self._array(place) for name, place in fields["arrays"].items()}
        except OSError as error:
            raise StateError(f"{self.path} cannot be read: {error.strerror or error}") from None

    def _array(self, place: Mapping[str, Any]) -> Array:
        dtype, shape = np.dtype(place["dtype"]), tuple(place["shape"])
        array = np.empty(shape, dtype)
        self._file.seek(place["start"])
        if array.nbytes and self._file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
            raise StateError(f"{self.path} was cut while it was read")
        return array.astype(dtype.newbyteorder("="), copy=False)

    def _checked(self, file: IO[bytes]) -> dict[str, Any]:
        """Return the description, of a file that is as it was written."""
        head = file.read(len(_MAGIC) + _VERSION.size)
        if not head.startswith(_MAGIC):
            raise StateError(f"{self.path} is no state file of rankme: check the name")
        (version,) = _VERSION.unpack(head[len(_MAGIC) :].ljust(_VERSION.size, b"\0"))
        if version > VERSION:
            raise StateError(f"{self.path} is of version {version}, newer than {VERSION}: upgrade rankme-stream")
        n_bytes = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
        digest, left, last = blake2b(head, digest_size=_DIGEST_BYTES), n_bytes - len(head), b""
        while left > 0:
            piece = file.read(min(left, _PIECE_BYTES))
            if not piece:
                break
            digest.update(piece)
            left, last = left - len(piece), (last + piece)[-_PLACE.size :]
        if left or len(last) < _PLACE.size or file.read() != digest.digest():
            raise StateError(
                f"{self.path} is damaged: its checksum does not match its content; take an earlier copy, or delete it "
                "and start over"
            )
        start, length = _PLACE.unpack(last)
        file.seek(start)
        description: dict[str, Any] = json.loads(file.read(length))
        return description
