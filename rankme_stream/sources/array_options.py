"""What the caller says about an array of rows: where it is in its store, and what its numbers mean."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from rankme_stream.sources.address import split_address


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
        Array of scales: one a row, or one a row and group of features. ``STORE::PATH``, a ``.npy`` file, or the path
        of an array in the store of the rows.
    decode
        Rule of decoding: ``linear``, ``power:P:DIVISOR``, ``bits``, or ``bits:D`` where the last byte is filled up.
    """

    path: str | None = None
    features_axis: str | int | None = None
    dtype: str | None = None
    nodata: float | str | None = None
    scales: str | None = None
    decode: str | None = None

    @property
    def names_scales_elsewhere(self) -> bool:
        """Whether the scales are not in the store of the rows."""
        return self.scales is not None and ("::" in self.scales or "://" in self.scales or self.scales.endswith(".npy"))

    def absolute(self) -> ArrayOptions:
        """Return options that name the same from any working directory."""
        if self.scales is None or "://" in self.scales or not self.names_scales_elsewhere:
            return self
        store, path = split_address(self.scales)
        return replace(self, scales=f"{os.path.abspath(store)}::{path}" if path else os.path.abspath(store))


NO_OPTIONS = ArrayOptions()


class Opening(NamedTuple):
    """Argument of ``open_source`` with its options, which another process opens."""

    source: Any
    options: ArrayOptions
