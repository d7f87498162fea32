"""Stored rows audited and cast into panels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rankme_stream.errors import MagnitudeError, NonFiniteError, ZeroRowError, argument, counted
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import LARGEST_MAGNITUDE, Array, StoredType, named_type
from rankme_stream.passes.state.audit import DEFAULT_RULES, Audit, Rules
from rankme_stream.sources import Source, row_place

_FLOAT64 = named_type("float64")


@dataclass(frozen=True)
class PanelWriter:
    """Audits stored rows of a source and writes their values into panels.

    Attributes
    ----------
    workspace
        Scratch memory on the device of the panels.
    rules
        Treatment of faulty rows.
    """

    source: Source
    workspace: Workspace
    rules: Rules = DEFAULT_RULES

    def write(self, row: int, stored: Any, piece: Any) -> Audit:
        """Audit rows and write them into a panel; rows left out become zeros.

        Parameters
        ----------
        row
            Number of the first row.
        stored
            Rows as the source returned them.
        piece
            Shape ``(rows, 1 + D)``, the rows of the panel to fill.

        Raises
        ------
        NonFiniteError, ZeroRowError, MagnitudeError
            The message names the row.
        """
        device, kind = self.workspace.device, self.source.stored
        try:
            if kind.decoding is not None and device is not HOST:  # other devices are given values
                stored, kind = kind.values(stored), _FLOAT64
            rows = device.rows(stored, kind)
            audit, out = self._find_faults(row, rows, kind)
            kept = rows if out is None else device.without(rows, out)
            magnitude = device.largest_magnitude(kept, kind)
            if magnitude > LARGEST_MAGNITUDE:
                values = kind.values(device.download(kept))
                large = row + int(np.argmax((np.abs(values) > LARGEST_MAGNITUDE).any(axis=1)))
                raise MagnitudeError(
                    f"{row_place(self.source, large)} holds values beyond 2^480, whose squares overflow; scale the "
                    "embeddings by a power of two, which changes no rank"
                )
            piece[:, 0] = 1.0 if out is None else device.upload((~out).astype(np.float64))
            device.cast(kept, kind, piece[:, 1:], self.workspace)
            if out is not None and kind.decoding is not None:
                piece[out, 1:] = 0.0  # a stored zero may mean another value
        except MagnitudeError:
            raise
        except OverflowError as error:
            raise MagnitudeError(
                f"{row_place(self.source, row + error.args[0])} holds integers beyond 2^53, which float64 cannot hold "
                "exactly: convert them to float64, which rounds them, or subtract an offset"
            ) from None
        return replace(audit, largest_magnitude=magnitude) if magnitude else audit

    def _find_faults(self, row: int, rows: Any, kind: StoredType) -> tuple[Audit, Array | None]:
        """Return the audit of rows on the device, and a mask of the rows to leave out; None if there is none."""
        device = self.workspace.device
        audit, out = self._find_missing(row, rows.shape[0])
        bad = device.nonfinite_rows(rows, kind)
        if bad is not None and out is not None:
            bad &= ~out
        if bad is not None and bad.any():
            audit = audit.merge(self._count_nonfinite(row, bad))
            out = bad if out is None else out | bad
        constant, zero = device.constant_rows(rows, kind), device.zero_rows(rows, kind)
        if out is not None:
            constant, zero = constant[~out[constant]], zero[~out[zero]]
        if constant.size or zero.size:
            audit = audit.merge(self._count_alike(row, np.setdiff1d(constant, zero), zero))
        if zero.size and self.rules.zeros == "skip":
            out = np.zeros(rows.shape[0], dtype=bool) if out is None else out
            out[zero] = True
        return audit, out

    def _count_alike(self, row: int, constant: Array, zero: Array) -> Audit:
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

    def _find_missing(self, row: int, n_rows: int) -> tuple[Audit, Array | None]:
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

    def _count_nonfinite(self, row: int, bad: Array) -> Audit:
        """Return the audit of non-finite rows, or refuse them."""
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
