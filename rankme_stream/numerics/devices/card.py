"""The interface of cards: devices that work beside the host, in the order in which one thread queues their work.

No operation here waits for the card unless its text says so. What the card found in rows is fetched once for many.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.dtypes import Array, StoredType

# Least sum of squares in float32 by which a product is put right: what underflow takes from smaller ones may be large.
LEAST_DIAGONAL = 2.0**-80

# What is found in a row, as bits of one byte. MISSING is set by the caller, before the card looks.
NONFINITE, ZERO, CONSTANT, LARGE, INEXACT, MISSING = 1, 2, 4, 8, 16, 32


class Event(Protocol):
    """A point in the work of a stream."""

    def wait(self) -> None:
        """Wait, on the host, until the work before that point is done."""


class Stream(Protocol):
    """Work of a card that is done in order, beside the work of other streams.

    As a context it takes every operation on the device that the thread queues inside.
    """

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: object) -> None: ...

    def copy(self, rows: Array, out: Any) -> None:
        """Queue a copy of rows in pinned memory of the host into an array of the card of the same shape and type.

        The rows must not change before an event recorded after the copy.
        """

    def record(self) -> Event:
        """Return the point after all work queued so far."""

    def wait(self, event: Event) -> None:
        """Let work queued from here on begin after a point of another stream; the host does not wait."""


class Seen(NamedTuple):
    """What a card found in rows, in arrays of the card.

    Attributes
    ----------
    flags
        uint8, shape ``(rows,)``: bits of each row.
    largest
        float64, shape ``(1,)``: largest magnitude in the rows that count, if they are stored as float64; else 0.
    nonzero
        uint8, shape ``(D,)``: 1 for every feature that is nonzero in some row that counts.
    """

    flags: Any
    largest: Any
    nonzero: Any

    def part(self, start: int, stop: int) -> Seen:
        """Return what was found in the rows at some offsets; the arrays other than flags are shared."""
        return Seen(self.flags[start:stop], self.largest, self.nonzero)


class Card(Device, Protocol):
    """A device that works beside the host: what a pass over rows needs of it, beside the operations of every device.

    A *slab* is a two-dimensional array of whole panels, one after another, of shape ``(rows, 1 + D)``; a panel that is
    shorter than the others is a slab of its own.
    """

    def check_settings(self, precision: str, panel_type: str) -> None:
        """Refuse settings of the environment or a library under which products would not be what their bounds assume.

        They are read at each call, because other code may change them at any time: call this before a pass, and after
        each of its runs before the result of the run is believed. It waits for the card if a setting has changed.

        Parameters
        ----------
        precision
            ``float64`` or ``float32``: arithmetic of the products.
        panel_type
            Type of the panels that are multiplied.

        Raises
        ------
        DeviceError
            The text names the setting.
        """

    def stream(self) -> Stream:
        """Return a new stream."""

    def finish(self) -> None:
        """Wait for all work queued outside of streams, and for that of the stream that the calling thread is inside of.

        Threads may be inside of streams of a caller, so what one thread queues is waited for before another uses it.
        """

    def pinned(self, n_bytes: int) -> Array:
        """Return memory of the host, uint8, from which copies run beside other work."""

    def is_pinned(self, rows: Array) -> bool:
        """Return whether copies from an array of the host run beside other work."""

    def taken_as(self, kind: StoredType) -> StoredType:
        """Return the type in which stored rows travel to the card: their own, or float64, made by the host."""

    def stored_rows(self, shape: tuple[int, int], kind: StoredType) -> Any:
        """Return uninitialized memory of the card for rows of a type that ``taken_as`` returned."""

    def slab(self, shape: tuple[int, int], dtype: str) -> Any:
        """Return zeros for a slab of that shape and type of panel; its rows may be apart, as products need it."""

    def fill_slab(self, stored: Any, kind: StoredType, slab: Any, seen: Seen, skip: int) -> None:
        """Look at every value of stored rows once, and write the rows, with a one in front, into a slab.

        Parameters
        ----------
        stored, kind
            Rows on the card, shape ``(rows, D)``, and their type.
        slab
            Shape ``(rows, 1 + D)``: the part of a slab to fill, of any type of panel that holds the values exactly, or
            float32 for values that round to it.
        seen
            What is found is added to it. ``flags`` may hold MISSING before.
        skip
            Bits: a row that has one of them, LARGE included, counts nowhere, and is written as zeros, the one in front
            included: no accumulator meets numbers whose squares overflow.
        """

    def unit_rows(self, slab: Any, out: Any) -> None:
        """Write the rows of a float64 slab, scaled to unit length, into another; rows of zeros become zeros throughout.

        Rows whose squares would underflow are not for this function (``row_norms.scale_rows`` takes them).
        """

    def add_panels(self, slab: Any, panel_rows: int, total: Any, scratch: Workspace) -> None:
        """Add ``panel.T @ panel`` of each float64 panel of a slab, one after another, to a float64 matrix.

        Every entry is a chain of products and additions of at most ``panel_rows`` rows, then one addition a panel; the
        bits depend on the panels alone. Only the lower triangle of ``total`` need be valid.
        """

    def symmetric_product(self, lower: Any, right: Any) -> Any:
        """Return the product of the symmetric matrix with a lower triangle, float64, and a matrix of shape ``(n, k)``.

        What the matrix holds above its diagonal is not used, and may change.
        """

    def add_probed_panels(
        self, slab: Any, panel_rows: int, directions: Any, products: Any, sums: Any, scratch: Workspace
    ) -> None:
        """Do as ``add_probed`` for each panel of a slab; sums of panels are then added to each other, in any order."""

    def add_float32_panels(self, slab: Any, panel_rows: int, total: Any, overflowed: Any, scratch: Workspace) -> None:
        """Do as ``add_panels`` with float32 products, of panels of float32, of a 16-bit type, or of float64, rounded.

        Products of 16-bit panels are put right by their diagonals, because tensor cores cut off when they sum:
        rows and columns are scaled by the root of the true sum of squares, in float32 or better, over the computed.
        Those whose computed sum is below ``LEAST_DIAGONAL``, or not finite, are left as they are.

        Parameters
        ----------
        overflowed
            uint8, shape ``(panels,)``: 1 is written where a diagonal is not finite.
        """
