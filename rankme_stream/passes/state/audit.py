"""Faults of the rows: their counts, and the first row of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple


class Rules(NamedTuple):
    """Treatment of missing rows, of non-finite rows and of rows of zeros, as in ``measure``."""

    missing: Literal["error", "skip", "fill"] = "error"
    nonfinite: Literal["error", "skip"] = "error"
    zeros: Literal["error", "skip", "count"] = "count"


DEFAULT_RULES = Rules()


@dataclass(frozen=True)
class Audit:
    """Counts of faulty rows and the first of each kind; audits of different rows merge.

    ``first_...`` are row numbers of the source. A constant row holds one number, not zero, in all of two or more
    features. ``largest_magnitude`` is the largest absolute value of float64 data, and of decoded data that may be
    beyond 2^480; 0.0 for other types, whose range needs no check.
    """

    rows_nonfinite: int = 0
    first_nonfinite: int | None = None
    rows_zero: int = 0
    first_zero: int | None = None
    rows_constant: int = 0
    first_constant: int | None = None
    rows_missing: int = 0
    first_missing: int | None = None
    largest_magnitude: float = 0.0

    def rows_left_out(self, rules: Rules) -> int:
        """Return the number of rows that were left out by the rules of the pass."""
        left_out = self.rows_nonfinite + (self.rows_missing if rules.missing == "skip" else 0)
        return left_out + (self.rows_zero if rules.zeros == "skip" else 0)

    def renumbered(self, number_of: Callable[[int], int]) -> Audit:
        """Return the audit of the same rows by other numbers, in which they come in the same order."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name.startswith("first")}
        return replace(self, **{name: number_of(row) for name, row in found.items() if row is not None})

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
