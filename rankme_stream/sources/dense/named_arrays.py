"""Arrays of one file by their names: which of them is meant, and what may be its scales."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from rankme_stream.errors import SourceFormatError, UsageError, argument
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.dense.layout import DenseLayout

_LISTED = 8
_LONGEST_NAME = 120  # in messages
_COMPARED = 1_000  # names with one that is not there; each takes time
_SCALES = re.compile(
    r"(?<![a-z])q?(scales?|scaling|scale_?factors?|absmax|zero_?points?|zeros|codebooks?|centroids|quant_?(map|state))(?![a-z])",
    re.IGNORECASE,
)


class NamedArray(NamedTuple):
    """Array of a file.

    Attributes
    ----------
    shape
        Lengths of its axes; None where they are not known.
    type_name
        Name of its number type, as the format has it.
    layout
        Where it lies; None where it is not read.
    refusal
        Why it is not read, as the end of a sentence that begins with its name.
    """

    shape: tuple[int, ...] | None
    type_name: str
    layout: DenseLayout | None = None
    refusal: str = ""


def refuse_name(inside: str, options: ArrayOptions, uri: str) -> None:
    """Refuse the name of an array in a file that holds one without a name."""
    if inside and options.path is not None:
        raise UsageError(f"{uri} holds one array: leave {argument('path')} out")
    if inside:
        raise SourceFormatError(f"{uri} holds one array: leave '::' and what follows out")


def chosen_name(arrays: Mapping[str, NamedArray], inside: str, uri: str, *, is_scales: bool = False) -> str:
    """Return the name of the array that is meant: the one of that name, or the only one of two axes or more.

    Parameters
    ----------
    inside
        Name that the caller gave; empty without.
    is_scales
        Whether an array of scales is meant, which may have one axis.

    Raises
    ------
    SourceFormatError
        If there is none of that name, or the caller must say which of several is meant; the message lists them.
    """
    if inside in arrays:
        return inside
    if not arrays:
        raise SourceFormatError(f"{uri} holds no array")
    if inside:
        likely = [name for name in list(arrays)[:_COMPARED] if len(name) <= _LONGEST_NAME]
        close = get_close_matches(inside[:_LONGEST_NAME], likely, n=1)
        raise SourceFormatError(
            f"{uri} holds no {_short(inside)!r}: it holds {_listed(arrays)}: use e.g. "
            f"'{uri}::{_short((close or list(arrays))[0])}'"
        )
    fit = [name for name, one in arrays.items() if one.shape is not None and len(one.shape) >= (1 if is_scales else 2)]
    if len(fit) == 1 or len(arrays) == 1:
        return (fit or list(arrays))[0]
    fit = fit or [name for name, one in arrays.items() if one.shape is None]
    if not fit:
        raise SourceFormatError(f"{uri} holds no array of rows and features: it holds {_listed(arrays)}")
    raise SourceFormatError(
        f"{uri} holds {_listed(arrays)}: say which of them holds the rows, such as '{uri}::{_short(fit[0])}'"
    )


def layout_of_chosen(arrays: Mapping[str, NamedArray], name: str, uri: str) -> DenseLayout:
    """Return where an array lies; refuse one that is not read."""
    chosen = arrays[name]
    if chosen.layout is None:
        raise SourceFormatError(f"{uri}{f'::{_short(name)}' if name else ''} {chosen.refusal}")
    return chosen.layout


def refuse_unscaled(name: str, names: Iterable[str], layout: DenseLayout, options: ArrayOptions, uri: str) -> None:
    """Refuse integers and 8-bit floats beside what looks like their scales, unless the caller says what they are.

    Raises
    ------
    SourceFormatError
        If such an array has a name in the same group of names, parted by full stops.
    """
    is_code = layout.dtype.kind in "iu" and layout.type_name != "bfloat16"
    if not is_code or options.scales is not None or options.decode is not None:
        return
    group, _, last = name.rpartition(".")
    beside = [other for other in names if other != name and other.rpartition(".")[0] in (group, name)]
    found = [other for other in beside if _SCALES.search(other.rpartition(".")[2]) and not _SCALES.search(last)]
    if found:
        raise SourceFormatError(
            f"{uri}::{_short(name)} holds {layout.type_name or layout.dtype}, and {_short(found[0])} beside it may be "
            f"its scales: give {argument('scales', _short(found[0]))} if it has one a row, or one a row and group of "
            f"features, or {argument('decode', 'linear')} if the numbers are the values"
        )


def _listed(arrays: Mapping[str, NamedArray]) -> str:
    listed = []
    for name, one in list(arrays.items())[:_LISTED]:
        shape = "" if one.shape is None else f" ({', '.join(f'{n:,}' for n in one.shape)})"
        listed.append(f"{_short(name)}{shape}{f' {one.type_name}' if one.type_name else ''}")
    more = f" and {len(arrays) - _LISTED:,} more" if len(arrays) > _LISTED else ""
    return ", ".join(listed) + more


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
