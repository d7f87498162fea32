"""What the caller says about an array of rows: where it is in its store, and what its numbers mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from os.path import isfile, splitext
from typing import Any, NamedTuple

from rankme_stream.errors import UsageError, argument
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
        Array of scales: one a row, or one a row and group of features. ``STORE::PATH``, a file, or the path of an
        array in the store of the rows.
    decode
        Rule of decoding: ``linear``, ``power:P:DIVISOR``, ``bits``, or ``bits:D`` where the last byte is filled up.
    key
        Of an object in memory, the name of the column or variable that holds the rows, or what names it in each item of
        an iterable: the key of a dict, the number of a member of a tuple.
    width
        Number of features of a file that does not say it: numbers one row after another, without a header.
    offset
        Number of bytes before the first row of such a file; 0 where it is None.
    """

    path: str | None = None
    features_axis: str | int | None = None
    dtype: str | None = None
    nodata: float | str | None = None
    scales: str | None = None
    decode: str | None = None
    key: str | int | None = None
    width: int | None = None
    offset: int | None = None

    @property
    def names_scales_elsewhere(self) -> bool:
        """Whether the scales are not in the store of the rows, but at an address, or in a file of this machine.

        A name without an ending is that of an array in the store, also where a file has this name.
        """
        name = self.scales or ""
        return "::" in name or "://" in name or name.endswith(".npy") or (splitext(name)[1] != "" and isfile(name))

    def absolute(self) -> ArrayOptions:
        """Return options that name the same from any working directory."""
        if self.scales is None or "://" in self.scales or not self.names_scales_elsewhere:
            return self
        store, path = split_address(self.scales)
        return replace(self, scales=f"{os.path.abspath(store)}::{path}" if path else os.path.abspath(store))


def checked_options(options: Mapping[str, Any]) -> ArrayOptions:
    """Return the options of ``open_source`` by their names, which mean the same from any working directory.

    Raises
    ------
    UsageError
        If there is no option of a name, or what should name an array does not.
    """
    names = [one.name for one in fields(ArrayOptions)]
    if unknown := [name for name in options if name not in names]:
        raise UsageError(f"open_source has no option {unknown[0]!r}; it takes {', '.join(names)}")
    named = dict(options)
    for name in ("path", "scales"):
        value = named.get(name)
        named[name] = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(named[name], str | None):
            raise UsageError(
                f"{argument(name)} is a {type(value).__name__} and must be the path of an array in the store"
                + (", STORE::PATH, or a file" if name == "scales" else "")
            )
    if isinstance(named.get("key"), bool) or not isinstance(named.get("key"), str | int | None):
        raise UsageError(f"key is {named['key']!r} and must be a name or a number")
    for name, least in (("width", 1), ("offset", 0)):
        value = named.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63):
            raise UsageError(f"{argument(name)} is {value!r} and must be an integer of at least {least}")
    return ArrayOptions(**named).absolute()


NO_OPTIONS = ArrayOptions()


class Opening(NamedTuple):
    """Argument of ``open_source`` with its options, which another process opens."""

    source: Any
    options: ArrayOptions
