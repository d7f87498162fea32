"""What the caller says about an array of rows: where it is in its store, and what its numbers mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, kw_only=True)
class ArrayOptions:
    """Options of ``open_source``, by their names; None where the metadata decide.

    Attributes
    ----------
    path
        Path of the array in its store, in place of ``::`` and a path in the URI.
    features_axis
        Name or number of the axis of the features; the other axes are flattened in storage order.
    dtype
        Number type that the stored bytes hold, such as ``bfloat16``.
    nodata
        Stored number that means no data.
    scales
        Array of scales, ``STORE::PATH``: one a row, or one a row and group of features.
    decode
        Rule of decoding: ``linear``, ``power:P:DIVISOR`` or ``bits``.
    """

    path: str | None = None
    features_axis: str | int | None = None
    dtype: str | None = None
    nodata: float | None = None
    scales: str | None = None
    decode: str | None = None


NO_OPTIONS = ArrayOptions()


class Opening(NamedTuple):
    """Argument of ``open_source`` with its options, which another process opens."""

    source: Any
    options: ArrayOptions
