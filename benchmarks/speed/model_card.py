"""A model of a card: Python takes its own time, and every operation the time that rates give it.

The clock is the processor time of the thread that queues, advanced where it waits for the card or hands it an
operation. So the order of the work is timed without a card, on a machine that does other things as well.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from rankme_stream.numerics.devices.card import Event, Seen
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import Array, StoredType


class ModelArray:
    """A shape and a type without values, which read as zeros."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype

    def __getitem__(self, key: Any) -> ModelArray:
        """Return the part of some slices."""
        keys = key if isinstance(key, tuple) else (key,)
        pairs = zip(keys, self.shape, strict=False)
        kept = (len(range(*one.indices(length))) for one, length in pairs if isinstance(one, slice))
        return ModelArray((*kept, *self.shape[len(keys) :]), self.dtype)

    def __setitem__(self, key: Any, values: Any) -> None:
        """Write nothing."""

    def __add__(self, other: Any) -> ModelArray:
        """Return an array like this one."""
        return ModelArray(self.shape, self.dtype)

    def __iadd__(self, other: Any) -> Self:
        """Return this array."""
        return self

    def __float__(self) -> float:
        """Return 0."""
        return 0.0


class ModelNamespace:
    """The types of the array API standard."""

    float16, float32, float64, uint8 = map(np.dtype, ("float16", "float32", "float64", "uint8"))


@dataclass(frozen=True)
class Rates:
    """Seconds of a byte copied to the card, a value looked at, a row multiplied, a small operation, and of a call."""

    copied_byte: float = 0.0
    seen_value: float = 0.0
    multiplied_row: float = 0.0
    small_operation: float = 0.0
    call: float = 0.0


class ModelEvent:
    """A point in the work of a stream."""

    def __init__(self, card: ModelCard, at: float) -> None:
        self.card, self.at = card, at

    def wait(self) -> None:
        """Advance the clock to that point."""
        self.card.wait_until(self.at)


class ModelStream:
    """Work that is done in order.

    Attributes
    ----------
    free_at
        Time at which all work queued so far is done.
    """

    def __init__(self, card: ModelCard) -> None:
        self._card, self.free_at = card, 0.0

    def __enter__(self) -> None:
        """Take the operations that are queued inside."""
        self._card.streams.append(self)

    def __exit__(self, *error: object) -> None:
        """Take no more."""
        self._card.streams.pop()

    def work(self, seconds: float) -> None:
        """Queue some work."""
        self._card.call()
        self.free_at = max(self.free_at, self._card.now) + seconds

    def copy(self, rows: Array, out: Any) -> None:
        """Queue a copy."""
        rates = self._card.rates
        self.work(rates.small_operation + rows.nbytes * rates.copied_byte)

    def record(self) -> Event:
        """Return the point after all work queued so far."""
        self._card.call()
        return ModelEvent(self._card, self.free_at)

    def wait(self, event: Event) -> None:
        """Let later work begin after a point of another stream."""
        self._card.call()
        assert isinstance(event, ModelEvent)
        self.free_at = max(self.free_at, event.at)


class ModelCard:
    """A card that does nothing in a modelled time: what a pass over a Gram matrix needs of one.

    Attributes
    ----------
    calls
        Number of operations that were handed to it.
    streams
        Streams that were entered, the default one first.
    """

    name = "model:0"
    block_columns = 2**16
    xp = ModelNamespace

    def __init__(self, rates: Rates) -> None:
        self.rates, self.calls, self._waited = rates, 0, 0.0
        self.streams = [ModelStream(self)]

    @property
    def now(self) -> float:
        """Time of the thread that queues, seconds."""
        return time.thread_time() + self._waited

    def call(self) -> None:
        """Count an operation, and the time that a library takes for it."""
        self.calls += 1
        self._waited += self.rates.call

    def wait_until(self, at: float) -> None:
        """Advance the clock to a time, unless that has passed."""
        self._waited += max(0.0, at - self.now)

    def _work(self, seconds: float) -> None:
        self.streams[-1].work(seconds)

    def check_settings(self, precision: str, panel_type: str) -> None:
        """Refuse nothing."""

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

    def stream(self) -> ModelStream:
        """Return a stream."""
        return ModelStream(self)

    def finish(self) -> None:
        """Wait for the work of the current stream."""
        self.wait_until(self.streams[-1].free_at)

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float64, order: Any = "C") -> ModelArray:
        """Return an array without values."""
        self._work(self.rates.small_operation)
        return ModelArray(tuple(shape), np.dtype(dtype))

    def stored_rows(self, shape: tuple[int, int], kind: StoredType) -> ModelArray:
        """Return memory for rows."""
        return ModelArray(shape, kind.dtype)

    def slab(self, shape: tuple[int, int], dtype: str) -> ModelArray:
        """Return a slab."""
        return ModelArray(shape, np.dtype(dtype))

    def upload(self, values: Array) -> ModelArray:
        """Return an array without the values."""
        self._work(self.rates.small_operation)
        return ModelArray(values.shape, values.dtype)

    def download(self, values: ModelArray) -> Array:
        """Wait, and return zeros of the host."""
        self._work(self.rates.small_operation)
        self.finish()
        return np.zeros(values.shape, values.dtype)

    def fill_slab(self, stored: Any, kind: StoredType, slab: Any, seen: Seen, skip: int) -> None:
        """Take the time of a look at every value."""
        self._work(self.rates.small_operation + self.rates.seen_value * stored.shape[0] * stored.shape[1])

    def add_panels(self, slab: Any, panel_rows: int, total: Any, scratch: Workspace) -> None:
        """Take the time of the products and of their addition."""
        self._work(self.rates.multiplied_row * slab.shape[0])
        self._work(self.rates.small_operation)

    def add_float32_panels(self, slab: Any, panel_rows: int, total: Any, overflowed: Any, scratch: Workspace) -> None:
        """Take the time of the products, of the sums of squares and of the addition."""
        self._work(self.rates.multiplied_row * slab.shape[0])
        self._work(self.rates.small_operation)
        self._work(self.rates.small_operation)

    def add_probed_panels(
        self, slab: Any, panel_rows: int, directions: Any, products: Any, sums: Any, scratch: Workspace
    ) -> None:  # fmt: skip
        """Take the time of two more looks at every value."""
        self._work(self.rates.small_operation + 2 * self.rates.seen_value * slab.shape[0] * slab.shape[1])
        self._work(self.rates.small_operation)
