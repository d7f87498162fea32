"""Rows of a ``.npy`` file, read with ``preadv`` into given memory rather than mapped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from rankme_stream.errors import CorruptChunkError, SourceFormatError, SourceNotFoundError, SourcePermissionError
from rankme_stream.numerics.dtypes import Array, StoredType, stored_type
from rankme_stream.sources.file_errors import file_error

_FORTRAN_BUFFER_BYTES = 8 * 2**20
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NpySource:
    """Array of a ``.npy`` file.

    Parameters
    ----------
    path
        Path of the file.

    Raises
    ------
    SourceNotFoundError, SourcePermissionError
        If the file is not there, or may not be read.
    SourceFormatError
        If it is not a ``.npy`` file, or its array is not a non-empty two-dimensional array of numbers.
    CorruptChunkError
        If the file is shorter than its header says.
    """

    integrity = "none"
    chunks_missing = 0
    first_missing: str | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.uri = os.fspath(path)
        descriptor = self._open()
        with os.fdopen(descriptor, "rb") as file:
            shape, self._is_fortran, dtype = _header(file, self.uri)
            self._offset = file.tell()
            n_bytes_found = os.fstat(file.fileno()).st_size
        if dtype.hasobject:
            raise SourceFormatError(f"{self.uri} holds pickled objects, which are not read: save numbers instead")
        if len(shape) != 2 or 0 in shape:
            raise SourceFormatError(f"{self.uri} has shape {shape}; a non-empty (rows, features) array is needed")
        self.stored: StoredType = stored_type(dtype, uri=self.uri)
        self.shape: tuple[int, int] = (shape[0], shape[1])
        self._swaps = not dtype.isnative
        n_bytes = self._offset + shape[0] * shape[1] * dtype.itemsize
        if n_bytes_found < n_bytes:
            raise CorruptChunkError(
                f"{self.uri} is truncated: {n_bytes:,} bytes expected, {n_bytes_found:,} found; copy or write it again"
            )

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return the row offsets strictly inside ``(start, stop)``: a read may begin at any row."""
        return range(start + 1, stop)

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)``, native byte order, C order, in ``out`` when given.

        Raises
        ------
        CorruptChunkError
            If the file was truncated since it was opened.
        StorageError
            If the disk or the network file system fails.
        """
        if out is None:
            out = np.empty((stop - start, self.shape[1]), self.stored.dtype)
        descriptor = self._open()
        try:
            if self._is_fortran:
                self._read_columns(descriptor, start, stop, out)
            else:
                row_bytes = self.shape[1] * self.stored.dtype.itemsize
                self._fill(descriptor, out, self._offset + start * row_bytes, start, stop)
        except OSError as error:
            raise file_error(f"rows {start:,}-{stop:,} of {self.uri}", error) from error
        finally:
            os.close(descriptor)
        if self._swaps:
            out.byteswap(inplace=True)
        return out

    def read_memory(self, n_rows: int) -> int:
        """Return the peak bytes of reading ``n_rows`` rows, result included."""
        itemsize = self.stored.dtype.itemsize
        extra = max(_FORTRAN_BUFFER_BYTES, n_rows * itemsize) if self._is_fortran else 0
        return n_rows * self.shape[1] * itemsize + extra

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges known to be unwritten: none."""
        return []

    @property
    def tail_start(self) -> int:
        """First row that is written again when rows are added: row 0, because the file is one unit."""
        return 0

    def reopen(self) -> str:
        """Return the absolute path."""
        return os.path.abspath(self.uri)

    def identity(self) -> dict[str, object]:
        """Return the properties that all parts of a data set share."""
        return {"dtype": self.stored.name, "n_features": self.shape[1], "codecs": None}

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash of size, modification time and header of the file."""
        descriptor = self._open()
        try:
            status = os.fstat(descriptor)
            header = os.pread(descriptor, self._offset, 0)
        finally:
            os.close(descriptor)
        digest = blake2b(header, digest_size=16)
        digest.update(np.array([status.st_size, status.st_mtime_ns], dtype=np.int64).tobytes())
        return digest.hexdigest()

    def _open(self) -> int:
        # Opened for each read: there is nothing to close or pickle, and a replaced file changes the fingerprint.
        try:
            return os.open(self.uri, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceNotFoundError(f"there is no file {self.uri}") from error
        except PermissionError as error:
            raise SourcePermissionError(f"{self.uri} may not be read: check its permissions") from error
        except OSError as error:
            raise file_error(self.uri, error) from error

    def _read_columns(self, descriptor: int, start: int, stop: int, out: Array) -> None:
        n_rows, itemsize = stop - start, self.stored.dtype.itemsize
        width = max(1, min(self.shape[1], _FORTRAN_BUFFER_BYTES // max(1, n_rows * itemsize)))
        buffer = np.empty((width, n_rows), self.stored.dtype)
        for first in range(0, self.shape[1], width):
            columns = buffer[: self.shape[1] - first]
            for k, segment in enumerate(columns):
                offset = self._offset + ((first + k) * self.shape[0] + start) * itemsize
                self._fill(descriptor, segment, offset, start, stop)
            out[:, first : first + len(columns)] = columns.T

    def _fill(self, descriptor: int, out: Array, offset: int, start: int, stop: int) -> None:
        target = out.reshape(-1).view(np.uint8).data
        n_done = 0
        while n_done < len(target):
            n_read = os.preadv(descriptor, [target[n_done:]], offset + n_done)
            if n_read == 0:
                raise CorruptChunkError(f"{self.uri} ends within rows {start:,}-{stop:,}: it was cut while being read")
            n_done += n_read


def refuse_url(uri: str) -> None:
    """Raise SourceFormatError for a URL: a ``.npy`` file is read from a folder."""
    if "://" in uri:
        raise SourceFormatError(
            f"{uri} is not read over a network, as .npy files are not: download it, or write the rows to a zarr store"
        )


def _header(file: Any, uri: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        reader = _HEADER_READERS.get(version)
        if reader is not None:
            shape, is_fortran, dtype = reader(file)
            return shape, is_fortran, dtype
    except (ValueError, TypeError, SyntaxError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SourceFormatError(f"{uri} is not a .npy file that can be read: {reason}") from error
    raise SourceFormatError(f"{uri} is a .npy file of version {version}; 1.0 and 2.0 are read: save it again")
