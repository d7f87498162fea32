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
from rankme_stream.sources.regular_file import check_replaceable, reason, regular_file

MAGIC = b"rankme-state\n"  # first bytes of a file
VERSION = 1
HOST_DIGEST = blake2b(platform.node().encode(), digest_size=4).hexdigest()  # process numbers are a machine's own

_VERSION = struct.Struct("<I")
_LOCATION = struct.Struct("<QQ")  # first byte of the description, and its length
_DIGEST_BYTES = 32
_PIECE_BYTES = 2**20
_ALIGNMENT = 8

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
    temporary = path.with_name(f".{path.name}.{HOST_DIGEST}-{os.getpid()}.new")
    try:
        try:
            check_replaceable(path)
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
        raise OutputError(f"{path} cannot be written: {reason(error)}") from None
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
    pattern = re.compile(re.escape(f".{path.name}.{HOST_DIGEST}-") + r"(\d+)\.new")
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
    """A file that ``write`` made, verified.

    A context manager that keeps the file open: another may replace it any time.

    Raises
    ------
    StateError
        If there is no such file, or it is of another kind, of a newer version, or damaged.
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
                yield fields, {name: self._array(described) for name, described in fields["arrays"].items()}
        except OSError as error:
            raise StateError(f"{self.path} cannot be read: {error.strerror or error}") from None

    def _array(self, described: Mapping[str, Any]) -> Array:
        dtype, shape = np.dtype(described["dtype"]), tuple(described["shape"])
        array = np.empty(shape, dtype)
        self._file.seek(described["start"])
        if array.nbytes and self._file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
            raise StateError(f"{self.path} was cut short while it was read")
        return array.astype(dtype.newbyteorder("="), copy=False)

    def _read_description(self, file: IO[bytes]) -> dict[str, Any]:
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
        start, length = _LOCATION.unpack(last)
        file.seek(start)
        description: dict[str, Any] = json.loads(file.read(length))
        return description
