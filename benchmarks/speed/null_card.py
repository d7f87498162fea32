"""A card that does nothing and returns at once, so that the time of a pass on it is that of Python alone."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from rankme_stream.numerics.devices.card import Event, Seen
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import Array, StoredType


class _Done:
    """A point that was reached."""

    def wait(self) -> None:
        """Return at once."""


_DONE = _Done()


class NullArray:
    """A shape and a type without values, which read as zeros."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype

    def __getitem__(self, key: Any) -> NullArray:
        """Return the part of some slices."""
        keys = key if isinstance(key, tuple) else (key,)
        pairs = zip(keys, self.shape, strict=False)
        kept = (len(range(*one.indices(length))) for one, length in pairs if isinstance(one, slice))
        return NullArray((*kept, *self.shape[len(keys) :]), self.dtype)

    def __setitem__(self, key: Any, values: Any) -> None:
        """Write nothing."""

    def __add__(self, other: Any) -> NullArray:
        """Return an array like this one."""
        return NullArray(self.shape, self.dtype)

    def __iadd__(self, other: Any) -> Self:
        """Return this array."""
        return self

    def __float__(self) -> float:
        """Return 0."""
        return 0.0


class NullNamespace:
    """The types of the array API standard."""

    float16, float32, float64, uint8 = map(np.dtype, ("float16", "float32", "float64", "uint8"))


class NullStream:
    """A stream of a card that does nothing."""

    def __init__(self, card: NullCard) -> None:
        self._card = card

    def __enter__(self) -> None:
        """Enter nothing."""

    def __exit__(self, *error: object) -> None:
        """Leave nothing."""

    def copy(self, rows: Array, out: Any) -> None:
        """Copy nothing."""
        self._card.operations += 1

    def record(self) -> Event:
        """Return a point that was reached."""
        self._card.operations += 1
        return _DONE

    def wait(self, event: Event) -> None:
        """Return at once."""
        self._card.operations += 1


class NullCard:
    """A card that does nothing: what a pass over a Gram matrix needs of one.

    Attributes
    ----------
    operations
        Number of operations that were handed to it.
    """

    name = "null:0"
    block_columns = 2**16
    xp = NullNamespace

    def __init__(self) -> None:
        self.operations = 0

    def free_bytes(self) -> int:
        """Return 0: not known."""
        return 0

    def panel_type(self, kind: StoredType) -> str:
        """Return the type itself, as on a card that multiplies it."""
        return kind.name

    def taken_as(self, kind: StoredType) -> StoredType:
        """Return the type itself."""
        return kind

    def is_pinned(self, rows: Array) -> bool:
        """Return True: nothing need be copied on the host."""
        return True

    def stream(self) -> NullStream:
        """Return a stream."""
        return NullStream(self)

    def finish(self) -> None:
        """Return at once."""

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float64, order: Any = "C") -> NullArray:
        """Return an array without values."""
        self.operations += 1
        return NullArray(tuple(shape), np.dtype(dtype))

    def stored_rows(self, shape: tuple[int, int], kind: StoredType) -> NullArray:
        """Return memory for rows."""
        return NullArray(shape, kind.dtype)

    def slab(self, shape: tuple[int, int], dtype: str) -> NullArray:
        """Return a slab."""
        return NullArray(shape, np.dtype(dtype))

    def upload(self, values: Array) -> NullArray:
        """Return an array without the values."""
        self.operations += 1
        return NullArray(values.shape, values.dtype)

    def download(self, values: NullArray) -> Array:
        """Return zeros of the host."""
        self.operations += 1
        return np.zeros(values.shape, values.dtype)

    def look(self, stored: Any, kind: StoredType, slab: Any, seen: Seen, skip: int) -> None:
        """Look at nothing."""
        self.operations += 1

    def add_panels(self, slab: Any, panel_rows: int, total: Any, scratch: Workspace) -> None:
        """Add nothing."""
        self.operations += 1

    def add_float32_panels(self, slab: Any, panel_rows: int, total: Any, overflowed: Any, scratch: Workspace) -> None:
        """Add nothing."""
        self.operations += 1

    def add_probed_panels(
        self, slab: Any, panel_rows: int, directions: Any, products: Any, sums: Any, scratch: Workspace
    ) -> None:  # fmt: skip
        """Add nothing."""
        self.operations += 1
