"""What attributes of the CF conventions, and those named after them, say about stored numbers."""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rankme_stream.errors import SourceFormatError, argument
from rankme_stream.numerics.decoding import Decoding
from rankme_stream.numerics.dtypes import StoredType, named_type
from rankme_stream.sources.value_types import PACKING, held_number

_XARRAY_MARK = "_ARRAY_DIMENSIONS"
_LIMITS = ("valid_min", "valid_max", "valid_range")
_CONVENTION = (*PACKING, "_Unsigned", "_FillValue", "missing_value", *_LIMITS)
_NODATA = re.compile("(gdal)?nodata(val|vals|value|values)?")  # without case and marks between
_WORDS = {"nan": math.nan, "infinity": math.inf, "-infinity": -math.inf, "inf": math.inf, "+inf": math.inf,
          "+infinity": math.inf, "-inf": -math.inf}  # fmt: skip


@dataclass(frozen=True)
class Attributes:
    """Attributes of an array, and where they stand, for messages."""

    values: Mapping[str, Any]
    uri: str

    def refusal(self, name: str, value: object, why: str, remedy: str = "correct it") -> SourceFormatError:
        """Return the error for what is declared and not understood."""
        return SourceFormatError(f"{self.uri} declares {name} = {shortened(value)}, {why}: {remedy}")

    def number(self, name: str) -> float | None:
        """Return a finite number, or one in a list of its own; None where there is no such attribute."""
        if self.values.get(name) is None:
            return None
        value = self.values[name]
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not is_number(value) or abs(value) > sys.float_info.max or math.isnan(value):
            raise self.refusal(name, value, "which is not a finite number")
        return float(value)


def shortened(value: object) -> str:
    """Return a value of metadata for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def as_signed(kind: StoredType, attributes: Attributes) -> StoredType:
    """Return the type of integers whose sign ``_Unsigned`` changes; others as they are."""
    declared = attributes.values.get("_Unsigned")
    if declared is None or kind.is_float:
        return kind
    word = str(declared).lower()
    if word not in ("true", "false"):
        raise attributes.refusal("_Unsigned", declared, "which is neither true nor false")
    return named_type(kind.name.removeprefix("u") if word == "false" else f"u{kind.name.removeprefix('u')}")


def declared_decoding(
    kind: StoredType, metadata: Mapping[str, Any], attributes: Attributes, *, takes_nodata: bool = True
) -> Decoding | None:
    """Return what the attributes, and in zarr v2 the fill value, say about numbers of a type; None for nothing.

    Parameters
    ----------
    metadata
        Metadata document of the array.
    takes_nodata
        Whether numbers that mean no data are looked for; the caller names them otherwise.

    Raises
    ------
    SourceFormatError
        If an attribute is declared and not understood; the message names it.
    """
    scale, offset = attributes.number("scale_factor"), attributes.number("add_offset")
    if scale == 0.0:
        raise attributes.refusal("scale_factor", scale, "by which all numbers are equal")
    names = [name for name in (*PACKING, "_Unsigned") if attributes.values.get(name) is not None]
    if kind.is_float and "_Unsigned" in names:
        names.remove("_Unsigned")
    found = Decoding(1.0 if scale is None else scale, 0.0 if offset is None else offset)
    if takes_nodata:
        sentinels: list[float] = []
        for name, value in _declared_nodata(metadata, attributes):
            is_signed = "_Unsigned" in names
            numbers = [_nodata(name, one, kind, attributes, any_sign=is_signed) for one in _listed(value)]
            if kept := [number for number in numbers if not math.isnan(number)]:
                sentinels += kept
                names.append(name)
        limits, limit_names = _valid(kind, attributes, is_packed=scale is not None or offset is not None)
        names += limit_names
        found = replace(found, nodata=tuple(dict.fromkeys(sentinels)), valid=limits)
    return replace(found, source=", ".join(names)) if names else None


def _declared_nodata(metadata: Mapping[str, Any], attributes: Attributes) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of what is declared to be no data.

    A ``fill_value`` of zarr v3 is that of chunks without a file, and so is one of v2 without attributes of xarray or CF
    beside it. A zero there is written by default, and is no data only where xarray packed the numbers.
    """
    for name, value in attributes.values.items():
        plain = re.sub("[^a-z]", "", str(name).lower())
        if value is not None and (name in ("_FillValue", "missing_value") or _NODATA.fullmatch(plain)):
            yield name, value
    if metadata.get("zarr_format") != 2 or attributes.values.get("_FillValue") is not None:
        return
    is_cf = any(name in attributes.values for name in (_XARRAY_MARK, *_CONVENTION))
    is_packed = _XARRAY_MARK in attributes.values and any(name in attributes.values for name in PACKING)
    fill = metadata.get("fill_value")
    if is_cf and fill is not None and (is_packed or fill != 0):
        yield "fill_value", fill


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _nodata(name: str, value: Any, kind: StoredType, attributes: Attributes, *, any_sign: bool) -> float:
    """Return a number that means no data, as it is stored; NaN for one that needs no rule of its own."""
    number = value if is_number(value) else _number_in_text(value, kind) if isinstance(value, str) else None
    remedy = f"correct it, or give {argument('nodata')} (NaN for none)"
    if number is None:
        raise attributes.refusal(name, value, "which is no number", remedy)
    held = held_number(number, kind, any_sign=any_sign)
    if held is None:
        raise attributes.refusal(name, value, f"which {kind.name} cannot hold", remedy)
    return held


def _number_in_text(text: str, kind: StoredType) -> float | None:
    """Return the number that a text stands for: a word, digits, or 8 bytes in base64, as xarray writes floats in v3."""
    if (word := text.strip().lower()) in _WORDS:
        return _WORDS[word]
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", word) and len(word) <= 32:
        return float(word)
    if kind.is_float and len(text) == 12 and text.endswith("="):
        try:
            return float(struct.unpack("<d", base64.b64decode(text, validate=True))[0])
        except (binascii.Error, struct.error, ValueError):
            return None
    return None


def _valid(
    kind: StoredType, attributes: Attributes, *, is_packed: bool
) -> tuple[tuple[float | None, float | None], list[str]]:
    """Return the least and the largest stored number that is data, and the attributes that say so."""
    limits: list[float | None] = [None, None]
    names = [name for name in _LIMITS if attributes.values.get(name) is not None]
    for name in names:
        values = _listed(attributes.values[name])
        if len(values) != (2 if name == "valid_range" else 1) or not all(is_number(value) for value in values):
            raise attributes.refusal(name, attributes.values[name], "which are not the limits of numbers")
        if is_packed and not kind.is_float and any(isinstance(value, float) for value in values):
            raise attributes.refusal(
                name,
                attributes.values[name],
                f"of another type than {kind.name}, so that stored numbers or values may be meant",
                "write it in stored numbers",
            )
        ends = (0, 1) if name == "valid_range" else (int(name == "valid_max"),)
        for value, end in zip(values, ends, strict=True):
            held = _limit(value, kind, has_sign="_Unsigned" in attributes.values)
            if held is not None and limits[end] is not None:
                held = (max, min)[end](held, limits[end])  # type: ignore[type-var]
            limits[end] = limits[end] if held is None else held
    low, high = limits
    if low is not None and high is not None and low > high:
        raise attributes.refusal(names[0], attributes.values[names[0]], "between whose ends no number lies")
    return (low, high), names


def _limit(value: float, kind: StoredType, *, has_sign: bool) -> float | None:
    """Return a limit as a stored number; None for one that no number of the type is beyond."""
    if not abs(value) <= sys.float_info.max:
        return None
    if kind.is_float:
        held = held_number(value, kind)
        return None if held is None or math.isnan(held) else held
    held = held_number(value, kind, any_sign=has_sign)
    return value if held is None else held


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
