"""The interface of accumulators, which absorb panels of rows, merge and yield a spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

from rankme_stream.errors import UsageError
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.spectra.spectrum import Spectrum

# Names in state files and JSON since version 1, where the code now uses another.
FILE_KEYS = {"sketch_size": "columns", "pass_number": "turn"}


@runtime_checkable
class Accumulator(Protocol):
    """Absorbs panels, merges with others of its kind, yields a spectrum.

    ``a.merge(b)`` equals an accumulator that absorbed the rows of ``a`` and then those of ``b``, up to rounding; an
    empty accumulator is the identity on both sides, bit for bit; ``merge`` and ``spectrum`` change neither argument.
    """

    @property
    def n_features(self) -> int:
        """Width D of the rows."""

    @property
    def n_rows(self) -> int:
        """Number of rows absorbed."""

    @property
    def device(self) -> Device:
        """Device of its arrays and of the panels that it takes."""

    def update(self, panel: Any, start: int) -> None:
        """Add the rows of ``panel``, shape ``(rows, 1 + n_features)``, first column ones, from row ``start`` on.

        Rows whose squares would underflow are multiplied by a power of two, in place.
        """

    def check(self, start: int, stop: int) -> None:
        """Raise ``ArithmeticCheckError`` if rows [start, stop), all that were absorbed, were multiplied wrongly."""

    def merge(self, other: Any) -> Any:
        """Return the accumulator of both sets of rows."""

    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return the singular values of the rows absorbed."""

    def prefix(self, n_features: int) -> Self:
        """Return the accumulator of the first features alone."""

    def values(self, *, centered: bool) -> FloatArray:
        """Return the singular values alone, shape ``(min(n_rows, n_features),)``, descending."""

    def sums(self) -> FloatArray:
        """Return the sum of the rows, shape ``(n_features,)``."""

    def to_arrays(self) -> dict[str, Array]:
        """Return the state as arrays of the host."""

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], device: Device = HOST) -> Self:
        """Return the accumulator that ``to_arrays`` described, on a device."""


class ScaledGram(NamedTuple):
    """Gram matrix of rows times 2^``exponent``, shape ``(D, D)`` on the host; its lower triangle is valid."""

    lower: FloatArray
    exponent: int


@runtime_checkable
class HasGram(Accumulator, Protocol):
    """An accumulator that determines the Gram matrix of its rows."""

    def scaled_gram(self, *, centered: bool) -> ScaledGram:
        """Return the Gram matrix of the rows, or of the rows about their mean."""


@runtime_checkable
class Divisible(Protocol):
    """An accumulator whose update falls into independent parts, for several threads to share."""

    @property
    def parts(self) -> Sequence[Any]:
        """Independent parts of an update, those with most work first."""

    def update_part(self, part: Any, panel: Any, workspace: Workspace) -> None:
        """Do one part of ``update``; threads may do different parts at once, each part panel after panel."""

    def count(self, panel: Any) -> None:
        """Do the rest of ``update``, beside its parts."""

    def exponent_with(self, panel: Any) -> int:
        """Return the exponent that the state needs before a panel is added."""

    def fit_exponent(self, panel: Any, exponent: int) -> None:
        """Bring the state and a panel to an exponent, before the parts; no part may be in work where it changes."""

    @property
    def exponent(self) -> int:
        """Exponent of the state: its rows were multiplied by that power of two."""


@runtime_checkable
class Queued(Protocol):
    """An accumulator of a card that adds slabs of rows, which are whole panels or a shorter one, without waiting."""

    def takes_slabs(self, *, may_be_tiny: bool) -> bool:
        """Return whether slabs may be queued from here on; until then panels go through ``update``, which waits.

        Parameters
        ----------
        may_be_tiny
            Whether rows may be so small that their squares underflow, as only those stored as float64 are. They may be
            queued once a row of usual size was met, because the exponent of the state stays 0 from there on.
        """

    def queue(self, slab: Any, panel_rows: int, overflowed: Any) -> None:
        """Queue the addition of a slab, shape ``(rows, 1 + n_features)``, first column ones; nothing waits.

        Parameters
        ----------
        overflowed
            uint8 on the card, shape ``(panels,)``: 1 is written for each panel whose float32 product overflows. The
            state is then of no use (``float32_gram.overflow_error``).
        """

    def set_nonzero(self, nonzero: Array) -> None:
        """Note the features that are nonzero in some queued row: a mask on the host, shape ``(n_features,)``.

        Accumulators whose rows are not noted yet may merge, and do nothing else that says which features are zero.
        """


def check_device(device: Device, other: Device) -> None:
    """Raise ``UsageError`` if two accumulators are on different devices."""
    if device is not other:
        raise UsageError(f"rows on {other.name} cannot join rows on {device.name}: bring them to one device")
