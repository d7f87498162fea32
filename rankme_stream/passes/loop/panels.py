"""Stored rows audited and cast into panels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from rankme_stream.errors import MagnitudeError, NonFiniteError
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import Array
from rankme_stream.passes.state.audit import Audit
from rankme_stream.sources import Source

LARGEST_MAGNITUDE = 2.0**480  # its square times 2^64 rows and features stays below the end of float64


def fill_panels(
    source: Source,
    row: int,
    stored: Any,
    piece: Any,
    workspace: Workspace,
    missing: Literal["error", "skip", "fill"] = "error",
    nonfinite: Literal["error", "skip"] = "error",
) -> Audit:
    """Audit stored rows and write them into their place in a panel; rows left out become zeros.

    Parameters
    ----------
    row
        Number of the first of them.
    stored
        As the source gave them.
    piece
        Shape ``(rows, 1 + D)``, of the panel.
    missing, nonfinite
        As ``measure`` takes them.

    Raises
    ------
    NonFiniteError, MagnitudeError
        With the place.
    """
    device, kind = workspace.device, source.stored
    n_rows = stored.shape[0]
    audit = Audit()
    out: Array | None = None  # rows left out; most slabs have none, and every numpy call costs a turn at the GIL
    gaps = source.missing(row, row + n_rows)
    if gaps:
        audit = Audit(rows_missing=sum(end - start for start, end in gaps), first_missing=gaps[0][0])
        if missing == "skip":
            out = np.zeros(n_rows, dtype=bool)
            for start, end in gaps:
                out[start - row : end - row] = True
    try:
        rows = device.rows(stored, kind)
        bad = device.nonfinite_rows(rows, kind)
        if bad is not None and out is not None:
            bad &= ~out
        if bad is not None and bad.any():
            n_bad, first = int(bad.sum()), row + int(np.argmax(bad))
            if nonfinite == "error":
                raise NonFiniteError(
                    f"{source.uri}: row {first:,} is not finite ({n_bad:,} such rows among rows "
                    f"{row:,}-{row + n_rows - 1:,}, where reading stopped); pass --nonfinite skip to leave them out "
                    "and have them counted"
                )
            audit = audit.merge(Audit(rows_nonfinite=n_bad, first_nonfinite=first))
            out = bad if out is None else out | bad
        zeros = device.zero_rows(rows, kind)
        if out is not None:
            zeros = zeros[~out[zeros]]
        if zeros.size:
            audit = audit.merge(Audit(rows_zero=int(zeros.size), first_zero=row + int(zeros[0])))
        kept = rows if out is None else device.without(rows, out)
        magnitude = device.largest_magnitude(kept, kind)
        if magnitude > LARGEST_MAGNITUDE:
            place = row + int(np.argmax((np.abs(device.download(kept)) > LARGEST_MAGNITUDE).any(axis=1)))
            raise MagnitudeError(
                f"{source.uri}: row {place:,} holds values beyond 2^480, whose squares overflow; scale the embeddings "
                "by a power of two, which changes no rank"
            )
        piece[:, 0] = 1.0 if out is None else device.upload((~out).astype(np.float64))
        device.cast(kept, kind, piece[:, 1:], workspace)
    except MagnitudeError:
        raise
    except OverflowError as error:
        raise MagnitudeError(
            f"{source.uri}: row {row + error.args[0]:,} holds integers beyond 2^53, which float64 cannot hold exactly"
        ) from None
    return replace(audit, largest_magnitude=magnitude) if magnitude else audit
