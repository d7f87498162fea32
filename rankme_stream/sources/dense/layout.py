"""Where the values of an array lie in a file: at an offset, in one block, row by row or feature by feature."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from rankme_stream.errors import CorruptChunkError, SourceFormatError


@dataclass(frozen=True)
class DenseLayout:
    """Array in a file.

    Parameters
    ----------
    shape
        Lengths of the axes, in C order: for an array in Fortran order reversed.
    dtype
        Type of the values as stored, with its byte order.
    offset
        Offset of the first value in the file.
    is_fortran
        Whether the array was written in Fortran order, so that its axes are the reverse of ``shape``.
    between
        Bytes between the end of a row and the next, of an array of two axes in C order.
    mark
        Two, four or eight bytes that stand right before each row, the first too; empty where they are of no meaning.
    type_name
        Name of the type, where numpy has none (``bfloat16``), or ``dtype`` holds its bits.
    header
        Bytes that describe the array, for the fingerprint.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    is_fortran: bool = False
    between: int = 0
    mark: bytes = b""
    type_name: str | None = None
    header: bytes = b""

    @property
    def axes(self) -> tuple[int, ...]:
        """Lengths of the axes as the caller numbers them."""
        return self.shape[::-1] if self.is_fortran else self.shape

    @property
    def n_bytes(self) -> int:
        """Number of bytes from the first value to the last."""
        rows = prod(self.shape[:-1])
        return prod(self.shape) * self.dtype.itemsize + self.between * max(0, rows - 1)

    def check(self, uri: str) -> None:
        """Refuse lengths and types that no file can have."""
        if not all(type(n) is int and n >= 0 for n in self.shape) or self.dtype.itemsize == 0:
            raise SourceFormatError(f"{uri} has shape {self.axes} and dtype {self.dtype}, which no file can hold")

    def check_size(self, n_bytes: int, uri: str, remedy: str = "copy or write it again") -> None:
        """Refuse a file that is shorter or longer than its header says."""
        expected = self.offset + self.n_bytes
        if n_bytes < expected:
            raise CorruptChunkError(
                f"{uri} is truncated: {expected:,} bytes expected, {n_bytes:,} found; copy or write it again"
            )
        if n_bytes > expected:
            raise CorruptChunkError(
                f"{uri} has bytes behind its array of shape {self.axes}: {expected:,} bytes expected, {n_bytes:,} "
                f"found; {remedy}"
            )
