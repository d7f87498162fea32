"""What is done with rows that are missing, not finite, alike throughout or too large: counted, left out or refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rankme_stream.errors import MagnitudeError, NonFiniteError, ZeroRowError, argument, counted
from rankme_stream.numerics.devices.card import CONSTANT, INEXACT, LARGE, MISSING, NONFINITE, ZERO
from rankme_stream.numerics.dtypes import Array
from rankme_stream.passes.state.audit import DEFAULT_RULES, Audit, Rules
from rankme_stream.sources import Source, row_place


@dataclass(frozen=True)
class RowFaults:
    """Treatment of the faulty rows of a source, by rules; messages name the row and the remedy."""

    source: Source
    rules: Rules = DEFAULT_RULES

    def missing(self, row: int, n_rows: int) -> tuple[Audit, Array | None]:
        """Return the audit of missing rows, and a mask of the rows to leave out.

        None if no row is left out, as in most slabs: every numpy call waits for the interpreter lock.
        """
        gaps = self.source.missing(row, row + n_rows)
        if not gaps:
            return Audit(), None
        audit = Audit(rows_missing=sum(end - start for start, end in gaps), first_missing=gaps[0][0])
        if self.rules.missing != "skip":
            return audit, None
        out = np.zeros(n_rows, dtype=bool)
        for start, end in gaps:
            out[start - row : end - row] = True
        return audit, out

    def nonfinite(self, row: int, bad: Array) -> Audit:
        """Return the audit of non-finite rows, a mask of consecutive rows, or refuse them."""
        n_bad, first = int(bad.sum()), row + int(np.argmax(bad))
        if self.rules.nonfinite == "error":
            kind = self.source.stored
            is_by_rule = kind.decoding is not None and kind.decoding.absence
            otherwise = f", or {argument('nodata')} NaN to take such numbers as data" if is_by_rule else ""
            raise NonFiniteError(
                f"{row_place(self.source, first)} {kind.fault} ({counted(n_bad, 'such row')} among rows "
                f"{row:,}-{row + len(bad) - 1:,}, where reading stopped); pass "
                f"{argument('nonfinite', 'skip')} to leave them out and have them counted{otherwise}"
            )
        return Audit(rows_nonfinite=n_bad, first_nonfinite=first)

    def alike(self, row: int, constant: Array, zero: Array) -> Audit:
        """Return the audit of rows, by their offsets, that hold one number, or zeros, throughout; or refuse zeros."""
        if zero.size and self.rules.zeros == "error":
            raise ZeroRowError(
                f"{row_place(self.source, row + int(zero[0]))} is zero throughout ({counted(zero.size, 'such row')} "
                f"where reading stopped); pass {argument('zeros', 'skip')} to leave them out and have them counted"
            )
        return Audit(
            rows_zero=int(zero.size), first_zero=row + int(zero[0]) if zero.size else None,
            rows_constant=int(constant.size), first_constant=row + int(constant[0]) if constant.size else None,
        )  # fmt: skip

    def too_large(self, row: int) -> MagnitudeError:
        """Return the error for a row of values whose squares overflow."""
        return MagnitudeError(
            f"{row_place(self.source, row)} holds values beyond 2^480, whose squares overflow; scale the "
            "embeddings by a power of two, which changes no rank"
        )

    def inexact(self, row: int) -> MagnitudeError:
        """Return the error for a row of integers that float64 cannot hold."""
        return MagnitudeError(
            f"{row_place(self.source, row)} holds integers beyond 2^53, which float64 cannot hold "
            "exactly: convert them to float64, which rounds them, or subtract an offset"
        )

    @property
    def skipped_flags(self) -> int:
        """Bits of a card's flags whose rows are left out; rows that are an error count nowhere either."""
        return MISSING | NONFINITE | LARGE | INEXACT | (0 if self.rules.zeros == "count" else ZERO)

    def of_flags(self, row: int, flags: Array) -> Audit:
        """Return the audit of consecutive rows by the flags that a card gave them, or refuse the first fault.

        Rows flagged MISSING are counted by ``missing``.

        Raises
        ------
        NonFiniteError, ZeroRowError, MagnitudeError
            As where rows are looked at on the host.
        """
        audit = Audit()
        if not flags.any():
            return audit
        bad = flags & (NONFINITE | MISSING) == NONFINITE
        if bad.any():
            audit = self.nonfinite(row, bad)
        finite = flags & (NONFINITE | MISSING) == 0
        zero = (flags & ZERO != 0) & finite
        constant = (flags & CONSTANT != 0) & finite & ~zero
        if zero.any() or constant.any():
            audit = audit.merge(self.alike(row, np.flatnonzero(constant), np.flatnonzero(zero)))
        for flag, error in ((LARGE, self.too_large), (INEXACT, self.inexact)):
            found = np.flatnonzero((flags & flag != 0) & finite)
            if found.size:
                raise error(row + int(found[0]))
        return audit


def with_magnitude(audit: Audit, magnitude: float) -> Audit:
    """Return an audit that states the largest magnitude, where there is one."""
    return replace(audit, largest_magnitude=magnitude) if magnitude else audit
