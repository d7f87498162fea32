"""What was wrong with the rows: counts, and the first place of each fault."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rankme_stream.arrays import Array, StoredType

_UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}
_SIGNED = {2: np.int16, 4: np.int32, 8: np.int64}
_INFINITY_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0000000000000}
_COLUMNS_TRIED = 8


@dataclass(frozen=True)
class Audit:
    """Counts and first places; two audits of different rows merge.

    Places are row numbers of the source. ``largest_magnitude`` is the largest absolute value of float64 data (0.0 for
    other types, whose range needs no watching).
    """

    rows_nonfinite: int = 0
    first_nonfinite: int | None = None
    rows_zero: int = 0
    first_zero: int | None = None
    rows_missing: int = 0
    first_missing: int | None = None
    largest_magnitude: float = 0.0

    def merge(self, other: Audit) -> Audit:
        """Return the audit of both sets of rows; neither argument changes."""
        if other == _CLEAN:
            return self
        merged: dict[str, Any] = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name.startswith("first"):
                merged[field.name] = min((place for place in (mine, theirs) if place is not None), default=None)
            elif field.name.startswith("rows"):
                merged[field.name] = mine + theirs
            else:
                merged[field.name] = max(mine, theirs)
        return Audit(**merged)


_CLEAN = Audit()


def largest_magnitude_bits(stored: Array, kind: StoredType) -> int:
    """Largest absolute value in ``stored`` as the bit pattern of its own floating-point type.

    IEEE patterns without the sign order like the magnitudes, so two integer maxima, one for each sign, do what
    ``abs`` and ``max`` would at a fraction of the memory traffic, and NaN and infinity come out on top.
    """
    size = kind.dtype.itemsize
    positive = int(stored.view(_SIGNED[size]).max())
    sign_bit = 1 << (8 * size - 1)
    any_sign = int(stored.view(_UNSIGNED[size]).max())
    return max(positive, any_sign - sign_bit, 0)


def nonfinite_rows(stored: Array, kind: StoredType) -> Array | None:
    """Return a mask, shape ``(rows,)``, of the rows that hold NaN or infinity; None, quickly, when there are none."""
    if not kind.is_float or largest_magnitude_bits(stored, kind) < _INFINITY_BITS[kind.name]:
        return None
    bits = stored.view(_UNSIGNED[kind.dtype.itemsize])
    infinity = bits.dtype.type(_INFINITY_BITS[kind.name])
    return np.asarray(((bits & infinity) == infinity).any(axis=1))


def largest_magnitude(stored: Array, kind: StoredType) -> float:
    """Largest absolute value of float64 data; 0.0 for every other type."""
    if kind.name != "float64":
        return 0.0
    return float(np.uint64(largest_magnitude_bits(stored, kind)).view(np.float64))


def zero_rows(stored: Array, kind: StoredType) -> Array:
    """Return the indices of the rows that are zero throughout; dense rows cost one look each."""

    def is_zero(values: Array) -> Array:
        return np.asarray((values & 0x7FFF) == 0 if kind.name == "bfloat16" else values == 0)

    candidates = np.flatnonzero(is_zero(stored[:, 0]))
    for column in range(1, min(_COLUMNS_TRIED, stored.shape[1])):
        if candidates.size == 0:
            return candidates
        candidates = candidates[is_zero(stored[candidates, column])]
    return candidates[is_zero(stored[candidates]).all(axis=1)]
