"""Rows that are in memory already."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from rankme_stream.arrays import Array, StoredType, stored_type
from rankme_stream.errors import SourceFormatError


class ArraySource:
    """A two-dimensional numpy array, in any order and byte order.

    Parameters
    ----------
    array
        Shape ``(n, d)``; ``ml_dtypes.bfloat16`` is held as its bit patterns.
    uri
        Named in errors and records.

    Raises
    ------
    SourceFormatError
        Not two-dimensional, empty, masked, or of a dtype that has no singular values here.
    """

    integrity = "none"
    chunks_missing = 0
    first_missing: str | None = None

    def __init__(self, array: Array, uri: str = "<array>") -> None:
        if isinstance(array, np.ma.MaskedArray):
            raise SourceFormatError(f"{uri} is a masked array: fill it or leave the masked rows out first")
        array = np.asarray(array)
        if array.ndim != 2 or 0 in array.shape:
            raise SourceFormatError(f"{uri} has shape {array.shape}; a non-empty (rows, features) array is needed")
        self.uri = uri
        self.shape: tuple[int, int] = (array.shape[0], array.shape[1])
        self.stored: StoredType = stored_type(array.dtype, uri=uri)
        self._array = array.view(np.uint16) if self.stored.name == "bfloat16" else array
        self._is_view = self._array.flags.c_contiguous and self._array.dtype.isnative

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Row offsets strictly inside ``(start, stop)`` where a read may begin: all of them."""
        return range(start + 1, stop)

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)``: a read-only view where the layout allows one, whatever ``out``."""
        rows = self._array[start:stop]
        if self._is_view:
            rows.flags.writeable = False
            return rows
        if out is None:
            out = np.empty(rows.shape, self.stored.dtype)
        out[...] = rows
        return out

    def read_memory(self, n_rows: int) -> int:
        """Bytes that a read of ``n_rows`` rows needs: none for a view."""
        return 0 if self._is_view else n_rows * self.shape[1] * self.stored.dtype.itemsize

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Row ranges known to be unwritten: none."""
        return []

    @property
    def tail_start(self) -> int:
        """First row that might be written again when rows are added: any."""
        return 0

    def reopen(self) -> None:
        """Return None: the rows live in this process."""

    def identity(self) -> dict[str, object]:
        """What two sources must share to be one data set."""
        return {"dtype": self.stored.name, "n_features": self.shape[1], "codecs": None}

    def fingerprint(self, start: int, stop: int) -> str:
        """Hash of shape and dtype; the values are not looked at."""
        text = f"{self.shape} {self.stored.name} {start} {stop}"
        return "memory-" + blake2b(text.encode(), digest_size=16).hexdigest()
