"""Singular values of the rows, raw and centred, and how small a value the arithmetic can tell from zero."""

from __future__ import annotations

from dataclasses import dataclass

from rankme_stream.arrays import FloatArray


@dataclass(frozen=True)
class Spectrum:
    """Singular values of the rows read, with what is needed to read them rightly.

    Parameters
    ----------
    singular_values, centered_singular_values
        Shape ``(m,)`` with m = min(n_rows, n_features), descending, unit of the embeddings; the second of the rows
        less their mean.
    n_rows, n_features
        Shape of the matrix; rows left out are not counted.
    unit_roundoff
        Of the *stored* type: relative error with which the embeddings were rounded when they were written.
    known_zeros
        How many of the last ``singular_values`` are zero exactly: features that are zero throughout make them so.
    resolution, centered_resolution
        Singular values at or below it cannot be told from zero by the arithmetic that made them; unit of the
        embeddings.
    """

    singular_values: FloatArray
    centered_singular_values: FloatArray
    n_rows: int
    n_features: int
    unit_roundoff: float
    known_zeros: int
    resolution: float
    centered_resolution: float
