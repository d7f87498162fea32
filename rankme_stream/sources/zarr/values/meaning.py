"""What the stored numbers of a zarr array are: the one place that decides it from metadata and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from rankme_stream.errors import SourceFormatError, argument
from rankme_stream.numerics.decoding import Decoding
from rankme_stream.numerics.dtypes import StoredType, named_type
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.value_types import (
    Rule,
    ScalesAt,
    checked_rule,
    checked_type,
    chosen_scales,
    plain_type,
    retyped,
    type_named,
    with_options,
)
from rankme_stream.sources.zarr.codecs.chain import chunk_codecs, codec_chain
from rankme_stream.sources.zarr.float_types import float_type
from rankme_stream.sources.zarr.values.cf_attributes import Attributes, as_signed, declared_decoding
from rankme_stream.sources.zarr.values.quantization import (
    GEOEMB,
    Quantization,
    declared_quantization,
    refuse_likely_scales,
    refuse_unknown_rules,
)
from rankme_stream.sources.zarr.values.surroundings import Surroundings

_SCALING_CODECS = ("fixedscaleoffset", "scale_offset")
_CASTS = {"fixedscaleoffset": "astype", "astype": "encode_dtype", "quantize": "astype", "cast_value": "data_type"}


@dataclass(frozen=True)
class DeclaredArray:
    """Metadata of an array of rows.

    Parameters
    ----------
    metadata, attributes
        Its document as stored, and its attributes.
    dtype
        Type of its values as numpy reads them.
    shape
        Rows and features.
    around
        Groups and arrays around it.
    """

    metadata: Mapping[str, Any]
    attributes: Mapping[str, Any]
    dtype: np.dtype[Any]
    shape: tuple[int, int]
    around: Surroundings
    uri: str


class Meaning(NamedTuple):
    """Type of the stored numbers with their decoding, and the array that scales them; None without."""

    stored: StoredType
    scales: ScalesAt | None


def meaning_of(array: DeclaredArray, options: ArrayOptions) -> Meaning:
    """Return what the numbers of an array are.

    Raises
    ------
    UsageError
        If an option is not understood.
    SourceFormatError
        If something is declared about the numbers that is not understood, or contradicts; the message names it.
    """
    rule, attributes = checked_rule(options), Attributes(array.attributes, array.uri)
    kind = _type(array, attributes, options)
    takes_nodata = options.nodata is None
    declared = declared_decoding(kind, array.metadata, attributes, takes_nodata=takes_nodata)
    if declared is not None and declared.absence and _is_by_attribute(array, kind, options):
        raise SourceFormatError(
            f"{array.uri} declares {declared.source} beside dtype = {kind.name} of {array.dtype.name}, and either the "
            f"number or the stored bits may be meant: give {argument('nodata')} in {kind.name} (NaN for none)"
        )
    if declared is not None and _is_scaled(declared) and (codec := _scaling_codec(array.metadata)) is not None:
        raise SourceFormatError(
            f"{array.uri} declares {declared.source}, and its codec {codec!r} scales as well; which of them is meant "
            "cannot be told: take one out"
        )
    is_code = not kind.is_float or kind.dtype.itemsize == 1  # 8-bit floats are scaled as integers are
    quantization: Quantization | None = None
    if is_code or GEOEMB in array.attributes:
        quantization = declared_quantization(kind, attributes, array.around, rule)
    _refuse_type_of_values(array, attributes, kind, rule, options)
    if quantization is not None:
        theirs = declared_decoding(
            kind, {}, Attributes(quantization.attributes, f"{array.uri}: {GEOEMB}"), takes_nodata=takes_nodata
        )
        declared = _merged(declared, theirs, array.uri)
    scales = _scales(quantization, options, array.around)
    if scales is not None and declared is not None and _is_scaled(declared):
        raise SourceFormatError(
            f"{array.uri} declares {declared.source}, and {scales.named_by} an array of scales; which of them is meant "
            "cannot be told: take one out"
        )
    if is_code and rule is None and options.scales is None:
        is_decoded = _is_scaled(declared) or scales is not None
        _refuse_undecoded(array, attributes, kind, is_decoded=is_decoded, is_typed=options.dtype is not None)
    if rule is not None and rule.kind == "bits":
        return Meaning(_packed_bits(kind, declared, array.uri), None)
    stored = with_options(kind, declared, rule, options)
    if stored.decoding is None and (words := _decoded_by_codecs(array)):
        stored = replace(stored, note=f"{stored.name}, {words}")
    elif stored.decoding is None and rule is None and options.nodata is None:
        stored = replace(stored, note=_undeclared(array, stored, quantization))
    return Meaning(stored, scales)


def _type(array: DeclaredArray, attributes: Attributes, options: ArrayOptions) -> StoredType:
    """Return the type of the stored numbers, by the option, the document, or the attributes."""
    spelling, named = array.attributes.get("dtype"), float_type(array.metadata)
    if (chosen := checked_type(options)) is not None:
        return retyped(array.dtype, chosen, array.uri, type_name=named)
    if spelling is None:
        return as_signed(plain_type(array.dtype, array.uri) if named is None else named_type(named), attributes)
    declared, stored = type_named(spelling), named or array.dtype.name
    remedy = f"give the type by {argument('dtype')}, such as {stored}"
    if declared is None:
        raise attributes.refusal("dtype", spelling, "which is not understood", remedy)
    kind = named_type(declared)
    if declared == stored:
        return as_signed(kind, attributes)
    is_same_width = kind.dtype.itemsize == array.dtype.itemsize
    if named is None and array.dtype.kind in "iuV" and kind.is_float and is_same_width:
        if array.attributes.get("scale_factor") is not None:
            raise attributes.refusal("dtype", spelling, f"beside a scale_factor of {stored}", remedy)
        return kind
    is_plain_float = named is not None or array.dtype.kind == "f"
    is_type_of_values = kind.is_float and not is_same_width and (is_plain_float or array.dtype.kind in "iu")
    if not is_type_of_values:  # such as float32 beside rows kept in float16, or beside codes that are decoded to it
        raise attributes.refusal("dtype", spelling, f"and holds {stored}", remedy)
    return as_signed(plain_type(array.dtype, array.uri) if named is None else named_type(named), attributes)


def _is_scaled(decoding: Decoding | None) -> bool:
    return decoding is not None and (decoding.scale, decoding.offset) != (1.0, 0.0)


def _scaling_codec(metadata: Mapping[str, Any]) -> str | None:
    """Return the name of a codec that scales what it decodes; None without."""
    names = [name.removeprefix("numcodecs.") for name, _ in chunk_codecs(codec_chain(metadata))]
    return next((name for name in names if name in _SCALING_CODECS), None)


def _merged(ours: Decoding | None, theirs: Decoding | None, uri: str) -> Decoding | None:
    """Return what the attributes of an array and the declaration of a group say together."""
    if theirs is None:
        return ours
    theirs = replace(theirs, source=GEOEMB)
    if ours is None:
        return theirs
    if _is_scaled(ours) and _is_scaled(theirs) and (ours.scale, ours.offset) != (theirs.scale, theirs.offset):
        raise SourceFormatError(
            f"{uri} declares {ours.source}, and {GEOEMB} another scale; which of them is meant cannot be told: correct "
            "one"
        )
    scaled = ours if _is_scaled(ours) else theirs
    lows, highs = zip(ours.valid, theirs.valid, strict=True)
    return Decoding(
        scaled.scale, scaled.offset,
        nodata=tuple(dict.fromkeys((*ours.nodata, *theirs.nodata))),
        valid=(
            max((low for low in lows if low is not None), default=None),
            min((high for high in highs if high is not None), default=None),
        ),
        source=f"{ours.source}, {theirs.source}",
    )  # fmt: skip


def _scales(quantization: Quantization | None, options: ArrayOptions, around: Surroundings) -> ScalesAt | None:
    """Return the array of scales that an option or the metadata name."""
    if (chosen := chosen_scales(options)) is not None:
        return chosen
    if quantization is None or quantization.scales is None:
        return None
    name = quantization.scales
    is_beside = quantization.group is None or around.array(name) is not None
    path = around.location(name, None if is_beside else quantization.group)
    return ScalesAt(path, quantization.scales_nodata, GEOEMB)


def _refuse_undecoded(
    array: DeclaredArray, attributes: Attributes, kind: StoredType, *, is_decoded: bool, is_typed: bool
) -> None:
    """Refuse integers that some metadata say to be other numbers, in a way that is not understood."""
    refuse_unknown_rules(kind, attributes, array.around, is_of_integers=is_decoded or is_typed or kind.is_float)
    if is_decoded:
        return
    spelling = array.attributes.get("dtype")
    if spelling is not None and not (is_typed or kind.is_float) and type_named(spelling) != array.dtype.name:
        raise attributes.refusal(
            "dtype", spelling, f"holds {kind.name} and declares no scale",
            f"give {argument('scales')} or {argument('decode')}, or {argument('dtype', kind.name)} for the integers",
        )  # fmt: skip
    if kind.dtype.itemsize == 1:
        refuse_likely_scales(array.shape, array.around, array.uri)


def _is_by_attribute(array: DeclaredArray, kind: StoredType, options: ArrayOptions) -> bool:
    """Return whether only an attribute says that the stored integers are bits of floats."""
    is_float_of_integers = options.dtype is None and kind.is_float and array.dtype.kind in "iu"
    return is_float_of_integers and float_type(array.metadata) is None


def _refuse_type_of_values(
    array: DeclaredArray, attributes: Attributes, kind: StoredType, rule: Rule | None, options: ArrayOptions
) -> None:
    """Refuse an attribute ``dtype`` that makes floats of integers which something else declares to be codes."""
    if not _is_by_attribute(array, kind, options):
        return
    integers = as_signed(plain_type(array.dtype, array.uri), attributes)
    if declared_quantization(integers, attributes, array.around, rule) is not None:
        raise attributes.refusal(
            "dtype", array.attributes["dtype"], f"beside a {GEOEMB} of {integers.name}",
            f"give the type by {argument('dtype', integers.name)}",
        )  # fmt: skip


def _packed_bits(kind: StoredType, declared: Decoding | None, uri: str) -> StoredType:
    if declared is not None:
        raise SourceFormatError(f"{uri} declares {declared.source}, which bits do not have: take it out")
    return kind


def _undeclared(array: DeclaredArray, kind: StoredType, quantization: Quantization | None) -> str:
    """Return the words for numbers that nothing decodes, with what is declared of others or could not be seen."""
    if quantization is not None and quantization.is_of_another_type:
        return f"{kind.name} as stored: {GEOEMB} of a group above is of another type"
    if not kind.is_float and kind.dtype.itemsize == 1 and not array.around.is_seen:
        return f"{kind.description}; groups above the address and arrays beside it were not looked at"
    return kind.note


def _decoded_by_codecs(array: DeclaredArray) -> str:
    """Return how codecs made floats out of integers; empty where they did not."""
    stored: np.dtype[Any] | None = None
    names = []
    for coded_name, configuration in chunk_codecs(codec_chain(array.metadata)):
        name = coded_name.removeprefix("numcodecs.")
        if name in _SCALING_CODECS or name in _CASTS:
            names.append(name)
        if configuration.get(_CASTS.get(name, "")) is not None:
            stored = np.dtype(configuration[_CASTS[name]])
    if stored is None or stored.kind not in "iu" or array.dtype.kind != "f":
        return ""
    return f"decoded from {stored.name} by {' and '.join(names)}"
