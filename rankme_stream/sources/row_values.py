"""Values of stored rows in float64, and the message about rows that float64 does not hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankme_stream.errors import MagnitudeError
from rankme_stream.numerics.devices import registry
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.sources.concat import row_place
from rankme_stream.sources.source import Source


def values_of(source: Source, stored: Array, row: int) -> FloatArray:
    """Return the values of stored rows from ``row`` on; refuse integers that float64 does not hold."""
    try:
        return source.stored.values(stored)
    except OverflowError as error:
        raise MagnitudeError(
            f"{row_place(source, row + error.args[0])} holds integers beyond 2^53, which float64 cannot hold exactly"
        ) from None


def read_values(source: Source, start: int, stop: int) -> FloatArray:
    """Return rows ``[start, stop)`` in float64, read now; a row that is not finite or no data holds NaN."""
    stored: Any = source.read(start, stop)
    if isinstance(stored, np.ndarray):
        return values_of(source, stored, start)
    values: FloatArray = registry.on_host(stored).astype(np.float64)  # on a card
    return values
