"""Stored rows audited and cast into panels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from rankme_stream.errors import MagnitudeError, NonFiniteError, argument
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import Array
from rankme_stream.passes.state.audit import Audit
from rankme_stream.sources import Source, row_place

LARGEST_MAGNITUDE = 2.0**480  # its square times 2^64 rows and features stays within the range of float64


@dataclass(frozen=True)
class PanelWriter:
    """Audits stored rows of a source and writes them into panels.

    Attributes
    ----------
    workspace
        Scratch memory on the device of the panels.
    missing, nonfinite
        As in ``measure``.
    """

    source: Source
    workspace: Workspace
    missing: Literal["error", "skip", "fill"] = "error"
    nonfinite: Literal["error", "skip"] = "error"

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
        NonFiniteError, MagnitudeError
            The message names the row.
        """
        device, kind = self.workspace.device, self.source.stored
        audit, out = self._find_missing(row, stored.shape[0])
        try:
            rows = device.rows(stored, kind)
            bad = device.nonfinite_rows(rows, kind)
            if bad is not None and out is not None:
                bad &= ~out
            if bad is not None and bad.any():
                audit = audit.merge(self._count_nonfinite(row, bad))
                out = bad if out is None else out | bad
            zeros = device.zero_rows(rows, kind)
            if out is not None:
                zeros = zeros[~out[zeros]]
            if zeros.size:
                audit = audit.merge(Audit(rows_zero=int(zeros.size), first_zero=row + int(zeros[0])))
            kept = rows if out is None else device.without(rows, out)
            magnitude = device.largest_magnitude(kept, kind)
            if magnitude > LARGEST_MAGNITUDE:
                large = row + int(np.argmax((np.abs(device.download(kept)) > LARGEST_MAGNITUDE).any(axis=1)))
                raise MagnitudeError(
                    f"{row_place(self.source, large)} holds values beyond 2^480, whose squares overflow; scale the "
                    "embeddings by a power of two, which changes no rank"
                )
            piece[:, 0] = 1.0 if out is None else device.upload((~out).astype(np.float64))
            device.cast(kept, kind, piece[:, 1:], self.workspace)
        except MagnitudeError:
            raise
        except OverflowError as error:
            raise MagnitudeError(
                f"{row_place(self.source, row + error.args[0])} holds integers beyond 2^53, which float64 cannot hold "
                "exactly"
            ) from None
        return replace(audit, largest_magnitude=magnitude) if magnitude else audit

    def _find_missing(self, row: int, n_rows: int) -> tuple[Audit, Array | None]:
        """Return the audit of missing rows, and a mask of the rows to leave out.

        None if no row is left out, as in most slabs: every numpy call waits for the interpreter lock.
        """
        gaps = self.source.missing(row, row + n_rows)
        if not gaps:
            return Audit(), None
        audit = Audit(rows_missing=sum(end - start for start, end in gaps), first_missing=gaps[0][0])
        if self.missing != "skip":
            return audit, None
        out = np.zeros(n_rows, dtype=bool)
        for start, end in gaps:
            out[start - row : end - row] = True
        return audit, out

    def _count_nonfinite(self, row: int, bad: Array) -> Audit:
        """Return the audit of non-finite rows, or refuse them."""
        n_bad, first = int(bad.sum()), row + int(np.argmax(bad))
        if self.nonfinite == "error":
            raise NonFiniteError(
                f"{row_place(self.source, first)} is not finite ({n_bad:,} such rows among rows "
                f"{row:,}-{row + len(bad) - 1:,}, where reading stopped); pass "
                f"{argument('nonfinite', 'skip')} to leave them out and have them counted"
            )
        return Audit(rows_nonfinite=n_bad, first_nonfinite=first)
