"""Quantised numbers: what groups and attributes declare about them, and which of it is understood."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from rankme_stream.errors import SourceFormatError, argument
from rankme_stream.numerics.dtypes import StoredType
from rankme_stream.sources.value_types import Rule, type_named
from rankme_stream.sources.zarr.values.cf_attributes import Attributes, shortened
from rankme_stream.sources.zarr.values.surroundings import Surroundings

GEOEMB = "geoemb:quantization"
_FIELDS = {"method", "original_dtype", "quantized_dtype", "scale", "link", "nodata", "valid_range"}
_SCALE_FIELDS = {"scalar": {"type", "scale", "offset"}, "array": {"type", "array_name", "nodata"}}
_METHODS = {"scalar": ("linear",), "array": ("linear", "per_pixel_scale")}
_RULE = re.compile(".*quanti[sz].*|.*dequant.*")
_RULE_OF_ARRAY = re.compile("scales?|zeropoints?|scalefactors?|decoding|decode|formula|codebook")
_FLOAT = re.compile("b?float[0-9]+.*")
_SETTLED = ("scale_factor",)  # of CF, whose name looks like one of these


@dataclass(frozen=True)
class Quantization:
    """What the geo-embeddings convention declares about an array.

    Attributes
    ----------
    attributes
        The same in names of CF: ``scale_factor``, ``add_offset``, ``missing_value``, ``valid_range``.
    scales
        Name of the array of scales beside it, or in the group that declares it; None without.
    scales_nodata
        Scale that means no data, beside those that are not finite.
    group
        Path of the group that declares it; None where the array itself does.
    """

    attributes: Mapping[str, Any]
    scales: str | None = None
    scales_nodata: float | None = None
    group: str | None = None


def declared_quantization(
    kind: StoredType, attributes: Attributes, around: Surroundings, rule: Rule | None
) -> Quantization | None:
    """Return what the nearest declaration by the geo-embeddings convention says; None where none is for this array.

    Parameters
    ----------
    rule
        Rule that the caller names: then only nodata and limits are taken from the declaration.

    Raises
    ------
    SourceFormatError
        If it is not understood; the message names the field and the option.
    """
    for where, values in _declarations(attributes, around):
        if GEOEMB not in values:
            continue
        declared = values[GEOEMB]
        if not isinstance(declared, Mapping):
            raise _not_understood(attributes.uri, "", declared)
        spelling = declared.get("quantized_dtype") or values.get("geoemb:data_type") or kind.name
        if (stored := type_named(spelling)) is None:
            raise _not_understood(attributes.uri, ".quantized_dtype", spelling)
        return _understood(declared, where, attributes.uri, rule) if stored == kind.name else None
    return None


def _declarations(attributes: Attributes, around: Surroundings) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """Yield the attributes of the array, then those of the groups above it, with their paths."""
    yield None, attributes.values
    for group in around.groups():
        yield group.path, group.attributes


def _understood(declared: Mapping[str, Any], group: str | None, uri: str, rule: Rule | None) -> Quantization:
    found = {
        name: declared[field]
        for field, name in (("nodata", "missing_value"), ("valid_range", "valid_range"))
        if declared.get(field) is not None
    }
    if rule is not None:
        return Quantization(found, group=group)
    if unknown := [name for name in declared if name not in _FIELDS]:
        raise _not_understood(uri, f".{unknown[0]}", declared[unknown[0]])
    scale = declared.get("scale")
    kind = scale.get("type") if isinstance(scale, Mapping) else None
    if not isinstance(kind, str) or kind not in _METHODS or declared.get("method") not in _METHODS[kind]:
        raise _not_understood(uri, ".method", declared.get("method"))
    assert isinstance(scale, Mapping)
    if unknown := [name for name in scale if name not in _SCALE_FIELDS[kind]]:
        raise _not_understood(uri, f".scale.{unknown[0]}", scale[unknown[0]])
    if kind == "scalar":
        found |= {"scale_factor": scale.get("scale"), "add_offset": scale.get("offset", 0.0)}
        if scale.get("scale") is None:
            raise _not_understood(uri, ".scale.scale", None)
        return Quantization(found, group=group)
    name = scale.get("array_name")
    if not isinstance(name, str) or not name:
        raise _not_understood(uri, ".scale.array_name", name)
    return Quantization(found, name, _scale_nodata(scale.get("nodata"), uri), group)


def _scale_nodata(value: object, uri: str) -> float | None:
    """Return a scale that means no data; None for words of numbers that are not finite, which always do."""
    if value is None or str(value).lower() in ("nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"):
        return None
    try:
        return float(str(value))
    except ValueError:
        raise _not_understood(uri, ".scale.nodata", value) from None


def _not_understood(uri: str, field: str, value: object) -> SourceFormatError:
    return SourceFormatError(f"{uri}: {GEOEMB}{field} is {shortened(value)}, which is not understood: {_remedy()}")


def _remedy() -> str:
    return (
        f"name the rule by {argument('decode')}, linear or power:P:DIVISOR (power:2:127.5 for AlphaEarth), or the "
        f"array of scales by {argument('scales')}, or write scale_factor and add_offset"
    )


def refuse_unknown_rules(
    kind: StoredType, attributes: Attributes, around: Surroundings, *, is_of_integers: bool
) -> None:
    """Refuse integers whose metadata declare a rule of decoding, or a type of floats, that is not understood.

    Parameters
    ----------
    is_of_integers
        Whether it is known that integers are stored; a type of floats is then that of the values.
    """
    for where, values in _declarations(attributes, around):
        for name, value in values.items():
            plain = re.sub("[^a-z]", "", str(name).lower())
            if value in (None, False, "", "none", "None") or name in (GEOEMB, *_SETTLED):
                continue
            place = "" if where is None else " in a group above it"
            if _RULE.fullmatch(plain) or (where is None and _RULE_OF_ARRAY.fullmatch(plain)):
                raise SourceFormatError(
                    f"{attributes.uri} declares {name} = {shortened(value)}{place}, a rule of decoding that is not "
                    f"understood: {_remedy()}"
                )
            if where is None and name != "dtype" and not is_of_integers and _is_float_type(value):
                raise SourceFormatError(
                    f"{attributes.uri} declares {name} = {shortened(value)} and holds {kind.name}: give "
                    f"{argument('dtype')}, {type_named(value)} if its bytes are such numbers or {kind.name} if they "
                    f"are integers, or name the rule by {argument('decode')}"
                )


def _is_float_type(value: object) -> bool:
    name = type_named(value)
    return name is not None and _FLOAT.fullmatch(name) is not None


def refuse_likely_scales(shape: tuple[int, int], around: Surroundings, uri: str) -> None:
    """Refuse integers without a declaration beside an array of one number a row that is called their scales."""
    name = around.name
    for sibling in ("scales", "scale", f"{name}_scales", f"{name}_scale"):
        document = around.array(sibling)
        if document is None or not _is_float_type(document.get("data_type", document.get("dtype"))):
            continue
        lengths = document["shape"]
        if not isinstance(lengths, list) or not all(type(length) is int for length in lengths):
            continue
        n_groups, rest = divmod(prod(lengths), shape[0])
        if rest == 0 and n_groups and shape[1] % n_groups == 0:
            raise SourceFormatError(
                f"{uri} holds codes beside the array {sibling!r} of one number a row, and no metadata say whether it "
                f"scales them: give {argument('scales', around.name_in_store(sibling))}, or "
                f"{argument('decode', 'linear')} to take the numbers as they are"
            )
