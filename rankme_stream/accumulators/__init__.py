"""What a pass keeps of the rows: accumulators that absorb panels and merge."""

from __future__ import annotations

from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from rankme_stream.arrays import Array, FloatArray
from rankme_stream.spectrum import Spectrum


@runtime_checkable
class Accumulator(Protocol):
    """Absorbs panels, merges with its equals, yields a spectrum.

    ``a.merge(b)`` equals what one accumulator would hold after the rows of ``a`` and then those of ``b``, up to
    rounding; an empty accumulator is the identity on both sides, bit for bit; ``merge`` and ``spectrum`` change
    nothing.
    """

    n_features: int
    n_rows: int

    def update(self, panel: FloatArray, start: int) -> None:
        """Add the rows of ``panel``, shape ``(rows, 1 + n_features)``, first column ones, from row ``start`` on."""

    def merge(self, other: Any) -> Any:
        """Return the accumulator of both sets of rows."""

    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return the singular values of the rows absorbed."""

    def prefix(self, n_features: int) -> Self:
        """Return the accumulator of the first features alone."""

    def to_arrays(self) -> dict[str, Array]:
        """Return the state as arrays."""

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Self:
        """Return the accumulator that ``to_arrays`` described."""


def mark_nonzero(seen: Array, panel: FloatArray) -> None:
    """Set ``seen``, shape ``(D,)``, for the features that are nonzero somewhere in ``panel``, shape ``(rows, 1 + D)``.

    Free once every feature was seen: squares may underflow to zero, so the Gram itself cannot tell.
    """
    unseen = np.flatnonzero(~seen)
    if unseen.size:
        seen[unseen] = panel[:, 1 + unseen].any(axis=0)
