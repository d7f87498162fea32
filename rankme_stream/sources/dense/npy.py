"""Rows of a ``.npy`` file, read with ``preadv`` into given memory rather than mapped."""

from __future__ import annotations

import io
import os
import tokenize
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from math import prod
from typing import Any

import numpy as np

from rankme_stream.errors import CorruptChunkError, SourceFormatError, SourceNotFoundError, SourcePermissionError
from rankme_stream.numerics.dtypes import Array, StoredType
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions, Opening
from rankme_stream.sources.features_axis import axis_of_features, reshaped
from rankme_stream.sources.stores.file_errors import file_error, is_storage_fault
from rankme_stream.sources.stores.regular_file import open_regular, reason
from rankme_stream.sources.value_types import chosen_scales, identity_of, meaning_by_options

_FORTRAN_BUFFER_BYTES = 8 * 2**20
_LONGEST_HEADER = 2**16  # numpy itself refuses those above 10,000 bytes, once it has read them
_MAGIC = np.lib.format.MAGIC_PREFIX
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NpyFile:
    """Array in a ``.npy`` file, whose bytes are read where they lie and never mapped: a cut file is an error.

    Parameters
    ----------
    path
        Path of the file.

    Raises
    ------
    SourceNotFoundError, SourcePermissionError
        If the file is not there, or may not be read.
    SourceFormatError
        If it is a URL, not a regular file, not a ``.npy`` file, or holds pickled objects.
    StorageError
        If the disk or the network file system fails.
    CorruptChunkError
        If the file is shorter or longer than its header says.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.uri = os.fspath(path)
        if self.uri.startswith("file://"):
            raise SourceFormatError(f"{self.uri}: .npy files are read by their path: give it without file://")
        if "://" in self.uri:
            raise SourceFormatError(f"{self.uri}: .npy files are not read over a network; download it first")
        with self.opened() as descriptor:
            first = os.pread(descriptor, _LONGEST_HEADER, 0)
            if not first.startswith(_MAGIC):
                what = f"it begins with {first[: len(_MAGIC)]!r}" if first else "it is empty"
                raise SourceFormatError(
                    f"{self.uri} is no .npy file, whatever its name: {what}; write it again with np.save"
                )
            beginning = io.BytesIO(first)
            self.shape, self.is_fortran, self.dtype = _header(beginning, self.uri)
            self.offset = beginning.tell()
            if self.dtype.hasobject:
                raise SourceFormatError(f"{self.uri} holds pickled objects, which are not read: save numbers instead")
            if not all(type(n) is int and n >= 0 for n in self.shape) or self.dtype.itemsize == 0:
                raise SourceFormatError(
                    f"{self.uri} has shape {self.shape} and dtype {self.dtype}, which no file can hold"
                )
            self._check_size(descriptor)

    def _check_size(self, descriptor: int) -> None:
        """Refuse a file that is shorter or longer than its header says."""
        expected, found = self.offset + prod(self.shape) * self.dtype.itemsize, os.fstat(descriptor).st_size
        if found < expected:
            raise CorruptChunkError(
                f"{self.uri} is truncated: {expected:,} bytes expected, {found:,} found; copy or write it again"
            )
        if found > expected:
            remedy = "copy or write it again"
            if os.pread(descriptor, len(_MAGIC), expected) == _MAGIC:
                remedy = (
                    "another array begins there, as after several np.save into one file: call np.load on the opened "
                    "file once for each, and save them joined or to a file each"
                )
            raise CorruptChunkError(
                f"{self.uri} has bytes behind its array of shape {self.shape}: {expected:,} bytes expected, {found:,} "
                f"found; {remedy}"
            )

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open the file: for each read, so that there is nothing to close or pickle, and a replaced file is seen."""
        try:
            descriptor = open_regular(self.uri)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceNotFoundError(f"there is no file {self.uri}: check the path") from error
        except PermissionError as error:
            raise SourcePermissionError(f"{self.uri} may not be read: check its permissions") from error
        except OSError as error:
            if is_storage_fault(error):
                raise file_error(self.uri, error) from error
            raise SourceFormatError(f"{self.uri} cannot be opened: {reason(error)}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def fill(self, descriptor: int, out: Array, offset: int, rows: tuple[int, int]) -> None:
        """Read values from an offset of the array into contiguous memory; ``rows`` are named in errors."""
        target = out.reshape(-1).view(np.uint8).data
        n_done, start = 0, self.offset + offset
        try:
            while n_done < len(target):
                n_read = os.preadv(descriptor, [target[n_done:]], start + n_done)
                if n_read == 0:
                    raise CorruptChunkError(
                        f"{self.uri} ends within rows {rows[0]:,}-{rows[1]:,}: it was cut while being read"
                    )
                n_done += n_read
        except OSError as error:
            raise file_error(f"rows {rows[0]:,}-{rows[1]:,} of {self.uri}", error) from error


class NpySource:
    """Rows of a ``.npy`` file.

    Parameters
    ----------
    path
        Path of the file.
    options
        What the caller says about the array.
    is_scales
        Whether it is an array of scales: of one dimension, it is taken as one feature.

    Attributes
    ----------
    scales
        Array of scales that the options name; None without.

    Raises
    ------
    UsageError
        If there is no such axis as the options name, or an option is not understood.
    SourceError
        As `NpyFile`; also if its array is not a non-empty two-dimensional array of numbers.
    """

    integrity = "none"
    chunks_missing = 0
    first_missing: str | None = None
    n_axes = 2
    row_order = None

    def __init__(
        self, path: str | os.PathLike[str], options: ArrayOptions = NO_OPTIONS, *, is_scales: bool = False
    ) -> None:
        self._file, self._options = NpyFile(path), options
        self.uri, shape, dtype = self._file.uri, self._file.shape, self._file.dtype
        if is_scales and len(shape) == 1:
            shape = (*shape, 1)
        if len(shape) != 2 or 0 in shape:
            raise SourceFormatError(
                f"{self.uri} has shape {shape}; a non-empty (rows, features) array is needed{reshaped(shape)}"
            )
        self.axis = 1 if is_scales else axis_of_features(options.features_axis, shape, None, self.uri)
        self._is_turned = self.axis == 0
        self.stored: StoredType = meaning_by_options(dtype, options, self.uri)
        self.scales = chosen_scales(options)
        self.shape: tuple[int, int] = (shape[1], shape[0]) if self._is_turned else (shape[0], shape[1])
        self._is_by_column = self._file.is_fortran != self._is_turned  # the values of a feature lie side by side
        self._swaps = not dtype.isnative

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
        with self._file.opened() as descriptor:
            if self._is_by_column:
                self._read_columns(descriptor, start, stop, out)
            else:
                row_bytes = self.shape[1] * self.stored.dtype.itemsize
                self._file.fill(descriptor, out, start * row_bytes, (start, stop))
        if self._swaps:
            out.byteswap(inplace=True)
        return out

    def read_memory(self, n_rows: int) -> int:
        """Return the peak bytes of reading ``n_rows`` rows, result included."""
        itemsize = self.stored.dtype.itemsize
        extra = max(_FORTRAN_BUFFER_BYTES, n_rows * itemsize) if self._is_by_column else 0
        return n_rows * self.shape[1] * itemsize + extra

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges known to be unwritten: none."""
        return []

    @property
    def tail_start(self) -> int:
        """First row that is written again when rows are added: row 0, because the file is one unit."""
        return 0

    def reopen(self) -> Any:
        """Return the absolute path, with the options if there are any."""
        path = os.path.abspath(self.uri)
        return path if self._options == NO_OPTIONS else Opening(path, self._options)

    def identity(self) -> dict[str, object]:
        """Return the properties that all parts of a data set share."""
        return {"dtype": self.stored.name, "n_features": self.shape[1], "codecs": None, **identity_of(self.stored)}

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash of size, modification time and header of the file, and of the axis of the features."""
        with self._file.opened() as descriptor:
            status = os.fstat(descriptor)
            header = os.pread(descriptor, self._file.offset, 0)
        digest = blake2b(header, digest_size=16)
        digest.update(np.array([status.st_size, status.st_mtime_ns], dtype=np.int64).tobytes())
        digest.update(b"features first" if self._is_turned else b"")
        return digest.hexdigest()

    def _read_columns(self, descriptor: int, start: int, stop: int, out: Array) -> None:
        n_rows, itemsize = stop - start, self.stored.dtype.itemsize
        width = max(1, min(self.shape[1], _FORTRAN_BUFFER_BYTES // max(1, n_rows * itemsize)))
        buffer = np.empty((width, n_rows), self.stored.dtype)
        for first in range(0, self.shape[1], width):
            columns = buffer[: self.shape[1] - first]
            for k, segment in enumerate(columns):
                self._file.fill(descriptor, segment, ((first + k) * self.shape[0] + start) * itemsize, (start, stop))
            out[:, first : first + len(columns)] = columns.T


def _header(file: Any, uri: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        reader = _HEADER_READERS.get(version)
        if reader is not None:
            shape, is_fortran, dtype = reader(file)
            return shape, is_fortran, dtype
    except (
        ValueError,
        TypeError,
        SyntaxError,
        EOFError,
        tokenize.TokenError,
        LookupError,
        OverflowError,
        RuntimeError,
        MemoryError,
    ) as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise SourceFormatError(f"{uri} is not a .npy file that can be read: {text}") from error
    raise SourceFormatError(f"{uri} is a .npy file of version {version}; 1.0 and 2.0 are read: save it again")
