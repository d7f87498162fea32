"""Faults of the rows: their counts, and the first row of each."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Audit:
    """Counts of faulty rows and the first of each kind; audits of different rows merge.

    ``first_...`` are row numbers of the source. ``largest_magnitude`` is the largest absolute value of float64 data;
    0.0 for other types, whose range needs no check.
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
                merged[field.name] = min((row for row in (mine, theirs) if row is not None), default=None)
            elif field.name.startswith("rows"):
                merged[field.name] = mine + theirs
            else:
                merged[field.name] = max(mine, theirs)
        return Audit(**merged)


_CLEAN = Audit()
