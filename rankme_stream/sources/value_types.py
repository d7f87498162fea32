"""What callers say about stored numbers: their type, the rule that decodes them, and which of them are no data."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rankme_stream.errors import SourceFormatError, UsageError, argument
from rankme_stream.numerics.decoding import Decoding
from rankme_stream.numerics.dtypes import Array, StoredType, named_type, stored_type
from rankme_stream.sources.array_options import ArrayOptions

PACKING = ("scale_factor", "add_offset")  # attributes of CF
_INTEGERS = tuple(f"{sign}int{8 * size}" for sign in ("", "u") for size in (1, 2, 4, 8))
_SPELLINGS = {
    "bfloat16": ("bf16", "bfloat"),
    "float16": ("fp16", "f16", "f2", "half"),
    "float32": ("fp32", "f32", "f4", "single"),
    "float64": ("fp64", "f64", "f8", "double"),
    "float8_e4m3fn": ("fp8_e4m3fn", "f8_e4m3", "f8e4m3fn"),
    "float8_e5m2": ("fp8_e5m2", "f8_e5m2", "f8e5m2"),
}  # of types of floats, beside their names; "float" and "i8" are different types to different libraries
_NAMES = {name: name for name in (*_SPELLINGS, *_INTEGERS)} | {
    spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings
}
_SPELLED = re.compile(r"(?:<class |<dtype: |dtype\()?['\"]?(?:[a-z_]+\.)*([a-z0-9_]+)['\"]?[>)]?")
_NUMPY = re.compile(r"[<>=|]([iuf])([1248])")
_KINDS = {"i": "int", "u": "uint", "f": "float"}


class Rule(NamedTuple):
    """Rule of decoding that the caller names: ``linear``, ``power`` with its two numbers, or ``bits`` with a width."""

    kind: str
    power: float = 1.0
    divisor: float = 1.0
    width: int | None = None


class ScalesAt(NamedTuple):
    """Array of scales: its path, the scale that means no data, and what names it."""

    path: str
    nodata: float | None
    named_by: str


def chosen_scales(options: ArrayOptions) -> ScalesAt | None:
    """Return the array of scales that the options name, None for none."""
    return None if options.scales is None else ScalesAt(str(options.scales), None, "option scales")


def type_named(spelling: object) -> str | None:
    """Return the name of a number type in one of its usual spellings, such as ``torch.bfloat16``; None for others."""
    if not isinstance(spelling, str):
        return None
    text = spelling.strip().lower()
    if match := _NUMPY.fullmatch(text):
        name = f"{_KINDS[match[1]]}{8 * int(match[2])}"
        return _NAMES.get(name)
    match = _SPELLED.fullmatch(text)
    return _NAMES.get(match[1]) if match else None


def checked_rule(options: ArrayOptions) -> Rule | None:
    """Return the rule of decoding that the options name, None for none.

    Raises
    ------
    UsageError
        If there is no such rule, or it does not go with the other options.
    """
    if options.decode is None:
        return None
    text = str(options.decode)
    name, *numbers = text.split(":")
    rule: Rule | None = None
    if name == "linear" and not numbers:
        rule = Rule("linear")
    elif name == "power" and len(numbers) == 2:
        power, divisor = (_positive(number) for number in numbers)
        rule = Rule("power", power, divisor) if power and divisor else None
    elif name == "bits" and not numbers:
        rule = Rule("bits")
    elif name == "bits" and len(numbers) == 1 and re.fullmatch("[1-9][0-9]{0,8}", numbers[0]):
        rule = Rule("bits", width=int(numbers[0]))
    if rule is None:
        raise UsageError(
            f"{argument('decode')} is {text!r} and must be linear, power:P:DIVISOR with two numbers above 0, bits, or "
            "bits:D for D features whose last byte is filled up"
        )
    if rule.kind == "bits" and not (options.scales is None and options.nodata is None and options.dtype is None):
        raise UsageError(f"{argument('decode')} {text} takes neither {argument('scales')} nor other options of values")
    if rule.kind == "power" and options.scales is not None:
        raise UsageError(f"{argument('decode')} {text} and {argument('scales')} are two rules for one array: give one")
    return rule


def _positive(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0.0 < number < math.inf else None


def checked_type(options: ArrayOptions) -> str | None:
    """Return the name of the type that the options give, None for none.

    Raises
    ------
    UsageError
        If there is no such type.
    """
    if options.dtype is None:
        return None
    name = type_named(str(options.dtype))
    if name is None:
        raise UsageError(
            f"{argument('dtype')} is {str(options.dtype)!r} and must be one of {', '.join((*_SPELLINGS, *_INTEGERS))}"
        )
    return name


def retyped(dtype: np.dtype[np.generic], name: str, uri: str, *, type_name: str | None = None) -> StoredType:
    """Return the type of a name that the bytes of an array are taken as.

    Parameters
    ----------
    type_name
        As of ``meaning_by_options``.

    Raises
    ------
    SourceFormatError
        If its numbers have another width, are no numbers, or are floats that would be taken for integers.
    """
    kind = named_type(name)
    if dtype.kind not in "iufV" or dtype.itemsize != kind.dtype.itemsize:
        raise SourceFormatError(
            f"{uri} holds dtype {dtype}, whose numbers {argument('dtype', name)} does not describe: it has "
            f"{kind.dtype.itemsize} bytes each; it converts nothing, but says what is stored"
        )
    is_float = dtype.kind == "f" or (type_name is not None and named_type(type_name).is_float)
    if is_float and not kind.is_float:
        raise SourceFormatError(
            f"{uri} holds {type_name or dtype}, whose bits are no integers: leave {argument('dtype', name)} out; it "
            "converts nothing, but says what is stored"
        )
    return kind


def plain_type(dtype: np.dtype[np.generic], uri: str) -> StoredType:
    """Return the type of an array whose numbers nothing describes but its dtype.

    Raises
    ------
    SourceFormatError
        For booleans, complex numbers, strings, objects, structures and floats wider than 64 bits.
    """
    if dtype.kind == "V" and dtype.names is None and dtype.itemsize in (1, 2):
        remedy = f"{argument('dtype', 'bfloat16')}" if dtype.itemsize == 2 else f"{argument('dtype', 'float8_e4m3fn')}"
        raise SourceFormatError(
            f"{uri} holds dtype {dtype}, bytes without a type, as numpy writes bfloat16 and float8: give the type, "
            f"such as {remedy}"
        )
    return stored_type(dtype, uri=uri)


def meaning_by_options(
    dtype: np.dtype[np.generic], options: ArrayOptions, uri: str, *, type_name: str | None = None
) -> StoredType:
    """Return what the numbers of an array without attributes are, by the options.

    Parameters
    ----------
    type_name
        Name of the type that its format declares, where numpy has none: ``dtype`` then holds its bits.

    Raises
    ------
    UsageError
        If an option is not understood, or ``nodata`` is no number of that type.
    SourceFormatError
        If its numbers are of no type that is read.
    """
    rule, name = checked_rule(options), checked_type(options)
    if name is not None:
        kind = retyped(dtype, name, uri, type_name=type_name)
    else:
        kind = plain_type(dtype, uri) if type_name is None else named_type(type_name)
    return with_options(kind, None, None if rule is not None and rule.kind == "bits" else rule, options)


def with_options(kind: StoredType, declared: Decoding | None, rule: Rule | None, options: ArrayOptions) -> StoredType:
    """Return a type with a declared decoding, changed by the options, which replace what they concern.

    Numbers that are the values need no decoding: then ``note`` says why.
    """
    found = declared or Decoding()
    names = found.source.split(", ") if found.source else []
    if rule is not None and rule.kind == "power":
        found = replace(found, power=rule.power, divisor=rule.divisor, scale=1.0, offset=0.0)
        names = [name for name in names if name not in PACKING]
    if rule is not None:
        names.append("option decode")
    if options.nodata is not None:
        found = replace(found, nodata=checked_nodata(kind, options), valid=(None, None))
        names.append("option nodata")
    if replace(found, source="") == Decoding():
        return replace(kind, note=_words_of_plain(kind, names, rule))
    return replace(kind, decoding=replace(found, source=", ".join(names)))


def _words_of_plain(kind: StoredType, names: list[str], rule: Rule | None) -> str:
    """Return what says that numbers are the values; empty where the type alone does."""
    if kind.is_float and rule is not None:
        return f"{kind.name} as stored, in which option decode changes nothing"
    if names:
        every = ", every number is data" if "option nodata" in names else ""
        return f"{kind.name} as stored{every}, by {', '.join(names)}"
    return f"{kind.name} as stored: neither a scale nor packed bits are declared" if kind.name == "uint8" else ""


def identity_of(kind: StoredType) -> dict[str, object]:
    """Return the decoding of a type for the identity of a source; nothing where numbers are the values."""
    found = kind.decoding
    if found is None:
        return {}
    numbers = [found.scale, found.offset, found.power, found.divisor]
    return {"decoding": [*numbers, list(found.nodata), list(found.valid)]}


def checked_nodata(kind: StoredType, options: ArrayOptions) -> tuple[float, ...]:
    """Return the number that the options name as no data, as its type holds it; nothing for NaN.

    Raises
    ------
    UsageError
        If it is no number of that type.
    """
    try:
        text = str(options.nodata)
        value = int(text) if re.fullmatch("-?[0-9]{1,20}", text) else float(text)
        held = held_number(value, kind)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{argument('nodata')} is {options.nodata!r} and must be a number") from None
    if held is None:
        raise UsageError(f"{argument('nodata')} is {value!r}, which {kind.name} cannot hold: give a stored number")
    return () if math.isnan(held) else (held,)


def held_number(value: float, kind: StoredType, *, any_sign: bool = False) -> float | None:
    """Return a number as a type holds it: rounded to a float, the same integer; None for an integer out of range.

    With ``any_sign``, integers of the same bits but of the other sign are taken as well: 255 is -1 in int8.
    """
    if kind.is_float:
        if not abs(value) <= sys.float_info.max:
            return math.nan  # never data, whatever is declared
        number = _value_of(bits_of(float(value), kind), kind)
        return number if math.isfinite(number) else math.nan
    if value != value:
        return math.nan
    if isinstance(value, float) and not value.is_integer():
        return None
    limits, n_values, number = np.iinfo(kind.dtype), 1 << 8 * kind.dtype.itemsize, int(value)
    if any_sign and -(n_values >> 1) <= number < n_values and not limits.min <= number <= limits.max:
        number += n_values if number < 0 else -n_values
    if not limits.min <= number <= limits.max:
        return None
    return number if abs(number) > 2**53 else float(number)  # which float64 may not hold


def bits_of(value: float, kind: StoredType) -> Array:
    """Return the bit pattern, shape ``(1, 1)``, of the number of a type of floats that is nearest to a value."""
    if kind.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.array([[value]]).astype(kind.dtype)
    patterns = np.arange(1 << 8 * kind.dtype.itemsize, dtype=np.uint32).astype(kind.dtype)[None, :]
    values = np.empty(patterns.shape)
    with np.errstate(invalid="ignore"):  # NaN that signals, and infinity less infinity
        replace(kind, decoding=None).widen(patterns, values, np.empty(patterns.shape, np.int32))
        if math.isnan(value):
            return patterns[:, np.flatnonzero(np.isnan(values[0]))[:1]]
        distance = np.where(values == value, 0.0, np.abs(values - value))
    return patterns[:, [int(np.nanargmin(distance))]]


def _value_of(bits: Array, kind: StoredType) -> float:
    out = np.empty(bits.shape)
    replace(kind, decoding=None).widen(bits, out, np.empty(bits.shape, np.int32))
    return float(out[0, 0])
