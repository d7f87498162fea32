"""Stored rows on the host, audited and cast into panels."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import LARGEST_MAGNITUDE, Array
from rankme_stream.passes.loop.row_faults import RowFaults, with_magnitude
from rankme_stream.passes.state.audit import DEFAULT_RULES, Audit, Rules
from rankme_stream.sources import Source


class PanelWriter:
    """Audits stored rows of a source and writes their values into panels.

    Parameters
    ----------
    workspace
        Scratch memory.
    rules
        Treatment of faulty rows.
    """

    def __init__(self, source: Source, workspace: Workspace, rules: Rules = DEFAULT_RULES) -> None:
        self._kind, self._workspace, self._faults = source.stored, workspace, RowFaults(source, rules)

    def write(self, row: int, stored: Array, piece: Any) -> Audit:
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
        kind = self._kind
        audit, out = self._find_faults(row, stored)
        kept = stored if out is None else np.where(out[:, None], stored.dtype.type(0), stored)
        magnitude = kind.largest_magnitude(kept)
        if magnitude > LARGEST_MAGNITUDE:
            large = (np.abs(kind.values(kept)) > LARGEST_MAGNITUDE).any(axis=1)
            raise self._faults.too_large(row + int(np.argmax(large)))
        piece[:, 0] = 1.0 if out is None else (~out).astype(np.float64)
        try:
            kind.widen(kept, piece[:, 1:], self._workspace.room("cast", kept.shape, np.int32))
        except OverflowError as error:
            raise self._faults.inexact(row + error.args[0]) from None
        if out is not None and kind.decoding is not None:
            piece[out, 1:] = 0.0  # a stored zero may mean another value
        return with_magnitude(audit, magnitude)

    def _find_faults(self, row: int, rows: Array) -> tuple[Audit, Array | None]:
        """Return the audit of rows, and a mask of the rows to leave out; None if there is none."""
        kind, faults = self._kind, self._faults
        audit, out = faults.missing(row, rows.shape[0])
        bad = kind.nonfinite_rows(rows)
        if bad is not None and out is not None:
            bad &= ~out
        if bad is not None and bad.any():
            audit = audit.merge(faults.nonfinite(row, bad))
            out = bad if out is None else out | bad
        constant, zero = kind.constant_rows(rows), kind.zero_rows(rows)
        if out is not None:
            constant, zero = constant[~out[constant]], zero[~out[zero]]
        if constant.size or zero.size:
            audit = audit.merge(faults.alike(row, np.setdiff1d(constant, zero), zero))
        if zero.size and faults.rules.zeros == "skip":
            out = np.zeros(rows.shape[0], dtype=bool) if out is None else out
            out[zero] = True
        return audit, out
