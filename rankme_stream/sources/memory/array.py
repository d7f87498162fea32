"""Rows in memory, on this machine or on a card."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.devices import registry
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import StoredType, stored_type
from rankme_stream.sources.content import content_digest
from rankme_stream.sources.features_axis import axis_of_features, check_rows
from rankme_stream.sources.storage import Storage
from rankme_stream.sources.whole_rows import WholeRows


class ArraySource(WholeRows):
    """Two-dimensional array of numpy, in any order and byte order, or of a library that shares memory (DLPack).

    Parameters
    ----------
    array
        Shape ``(n, d)``; ``bfloat16`` and 8-bit floats of ``ml_dtypes`` or torch are held as their bit patterns.
    uri
        Name in errors and records.
    features_axis
        Number of the axis of the features; the last where it is None.

    Attributes
    ----------
    device
        Device that the rows are on, and stay on.
    is_view
        Whether ``read`` lends the rows where they are.

    Raises
    ------
    SourceFormatError
        If the array is not two-dimensional, is empty or masked, or its dtype or its device is not supported.
    """

    def __init__(self, array: Any, uri: str = "<array>", *, features_axis: str | int | None = None) -> None:
        if isinstance(array, np.ma.MaskedArray):
            raise SourceFormatError(f"{uri} is a masked array: fill it or leave the masked rows out first")
        self.device, array, declared = registry.adopted(array, uri)
        check_rows(array.shape, uri, most_axes=2)
        if axis_of_features(features_axis, array.shape, None, uri) == 0:
            array = array.T
        self.uri = uri
        self.shape: tuple[int, int] = (array.shape[0], array.shape[1])
        if self.device is not HOST:
            self.stored: StoredType = self.device.stored_type(array, uri)
            self._array, self.is_view = array, True
            return
        self.stored = stored_type(array.dtype, uri=uri, declared=declared)
        self._array = array if array.dtype.name == self.stored.dtype.name else array.view(self.stored.dtype)
        self.is_view = self._array.flags.c_contiguous and self._array.dtype.isnative

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return the row offsets strictly inside ``(start, stop)``: a read may begin at any row."""
        return range(start + 1, stop)

    def read(self, start: int, stop: int, out: Any = None) -> Any:
        """Return rows ``[start, stop)``: a view if the layout allows it, read-only on the host, and not in ``out``."""
        rows = self._array[start:stop, :]
        if self.is_view:
            if self.device is HOST:
                rows.flags.writeable = False
            return rows
        if out is None:
            out = np.empty(rows.shape, self.stored.dtype)
        out[...] = rows
        return out

    def read_memory(self, n_rows: int) -> int:
        """Return the bytes that reading ``n_rows`` rows takes: none for a view."""
        return 0 if self.is_view else n_rows * self.shape[1] * self.stored.dtype.itemsize

    def storage(self) -> Storage:
        """Return that it is an array, its size and the order of its values."""
        itemsize, order = self.stored.dtype.itemsize, "row by row" if self.is_view else "copied when read"
        where = "in this process" if self.device is HOST else f"on {self.device.name}"
        n_bytes = self.shape[0] * self.shape[1] * itemsize
        return Storage("array", (("order", order),), n_bytes, where=where)

    def reopen(self) -> None:
        """Return None: the rows live in this process."""

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash of shape, dtype and the values of eight rows."""
        text = f"{self.shape} {content_digest(self, start, stop)}"
        return "memory-" + blake2b(text.encode(), digest_size=16).hexdigest()
