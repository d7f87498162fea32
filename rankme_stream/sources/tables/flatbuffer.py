"""Tables of flatbuffers, in which Arrow describes its messages: only what is read of them."""

from __future__ import annotations

import struct

import numpy as np

from rankme_stream.numerics.dtypes import Array


class FlatbufferError(ValueError):
    """Bytes that are no flatbuffer."""


class FlatTable:
    """Table of a flatbuffer; its fields by their numbers, and 0 or None for those that are left out.

    Parameters
    ----------
    data
        The flatbuffer.
    at
        Offset of the table; None for the root.

    Raises
    ------
    FlatbufferError
        Here and in every method, if an offset leads out of the bytes.
    """

    def __init__(self, data: bytes, at: int | None = None) -> None:
        self._data = data
        self._at = self._unpack("<I", 0) if at is None else at
        self._vtable = self._at - self._unpack("<i", self._at)
        self._n_bytes = self._unpack("<H", self._vtable)

    def number(self, field: int, kind: str) -> int:
        """Return a number; ``kind`` as in ``struct``."""
        at = self.place(field)
        return 0 if at is None else self._unpack(f"<{kind}", at)

    def table(self, field: int) -> FlatTable | None:
        """Return a table."""
        at = self.place(field)
        return None if at is None else FlatTable(self._data, at + self._unpack("<I", at))

    def tables(self, field: int) -> list[FlatTable]:
        """Return a vector of tables."""
        at = self.place(field)
        if at is None:
            return []
        at += self._unpack("<I", at)
        places = range(at + 4, at + 4 + 4 * min(self._unpack("<I", at), len(self._data)), 4)
        return [FlatTable(self._data, place + self._unpack("<I", place)) for place in places]

    def numbers(self, field: int, per_item: int) -> Array:
        """Return a vector of structures of ``per_item`` numbers of 64 bits; shape ``(items, per_item)``, int64."""
        at = self.place(field)
        if at is None:
            return np.empty((0, per_item), np.int64)
        at += self._unpack("<I", at)
        n_items = self._unpack("<I", at)
        if at + 4 + 8 * n_items * per_item > len(self._data):
            raise FlatbufferError("a vector is longer than its message")
        return np.frombuffer(self._data, "<i8", n_items * per_item, at + 4).reshape(n_items, per_item)

    def place(self, field: int) -> int | None:
        """Return the offset of a field; None where it is left out."""
        slot = 4 + 2 * field
        if slot + 2 > self._n_bytes:
            return None
        offset = self._unpack("<H", self._vtable + slot)
        return self._at + offset if offset else None

    def _unpack(self, kind: str, at: int) -> int:
        if not 0 <= at <= len(self._data) - struct.calcsize(kind):
            raise FlatbufferError("an offset leads out of the message")
        return int(struct.unpack_from(kind, self._data, at)[0])
