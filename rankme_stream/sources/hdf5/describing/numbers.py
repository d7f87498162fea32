"""Number types, fill values and attributes of HDF5, in the words that JSON has for them."""

from __future__ import annotations

from itertools import islice
from typing import Any

import h5py
import numpy as np

ERRORS = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    MemoryError,
    AttributeError,
    NotImplementedError,
    UnicodeError,
)  # fmt: skip - of h5py on damaged files
_MOST_FILTERS = 32
_MOST_VALUES = 4096  # of an attribute
_OF_SCALES = ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "DIMENSION_LABELS", "_Netcdf4Dimid",
              "_Netcdf4Coordinates", "_nc3_strict")  # fmt: skip
_FLOATS = {
    (2, 15, 10, 5, 0, 10, 15): "f2",
    (4, 31, 23, 8, 0, 23, 127): "f4",
    (8, 63, 52, 11, 0, 52, 1023): "f8",
    (2, 15, 7, 8, 0, 7, 127): "bfloat16",
}  # fmt: skip - by size, bit fields and bias


class RefusalError(Exception):
    """File or dataset that is not read; the text says why and what to do, behind its name."""


class AbsentError(RefusalError):
    """Path at which nothing lies."""


def number_type(dataset: Any) -> tuple[str, list[int], str]:
    """Return the name of a number type, the lengths of arrays of them, and numpy's name of what a value is."""
    kind, lengths = dataset.id.get_type(), list[int]()
    if kind.get_class() == h5py.h5t.ARRAY:
        kind, lengths = kind.get_super(), [int(length) for length in kind.get_array_dims()]
    size, name = kind.get_size(), None
    if kind.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
        order = ">" if kind.get_order() == h5py.h5t.ORDER_BE else "<"
        is_whole = kind.get_order() in (h5py.h5t.ORDER_LE, h5py.h5t.ORDER_BE) and kind.get_offset() == 0
        is_whole = is_whole and kind.get_precision() == 8 * size
        if kind.get_class() == h5py.h5t.INTEGER and size in (1, 2, 4, 8):
            name = f"{'i' if kind.get_sign() == h5py.h5t.SGN_2 else 'u'}{size}"
        elif kind.get_class() == h5py.h5t.FLOAT and size == 1:
            name = "V1"  # of several types of that size none is the usual one
        elif kind.get_class() == h5py.h5t.FLOAT and kind.get_norm() == h5py.h5t.NORM_IMPLIED:
            name = _FLOATS.get((size, *kind.get_fields(), kind.get_ebias()))
        if is_whole and name == "bfloat16" and order == "<":
            return name, lengths, "<u2"
        if is_whole and name and name != "bfloat16":
            text = np.dtype(f"{'|' if size == 1 else order}{name}").str
            return text, lengths, text
    raise RefusalError(f"holds {_kind_words(dataset, kind)}, which is no array of numbers: write float or integer rows")


def _kind_words(dataset: Any, kind: Any) -> str:
    """Return the words for a type that is not read."""
    words = {
        h5py.h5t.COMPOUND: "records (a compound type)", h5py.h5t.STRING: "text", h5py.h5t.VLEN: "rows of other lengths",
        h5py.h5t.REFERENCE: "references", h5py.h5t.ENUM: "booleans or names (an enumeration)",
        h5py.h5t.OPAQUE: "bytes without a type", h5py.h5t.BITFIELD: "bits", h5py.h5t.TIME: "times",
        h5py.h5t.INTEGER: "integers of an unusual width", h5py.h5t.FLOAT: "floats of an unusual layout",
    }  # fmt: skip
    return words.get(kind.get_class(), "values of a type that is not known")


def filters_of(properties: Any) -> list[Any]:
    """Return number, values and name of the filters, in the order of writing."""
    found = (properties.get_filter(place) for place in range(min(properties.get_nfilters(), 32)))
    return [[code, list(values), name.decode(errors="replace").strip("\0")] for code, _, values, name in found]


def fill_value(dataset: Any, properties: Any, lengths: list[int]) -> Any:
    """Return the fill value if it was chosen; None otherwise."""
    if properties.fill_value_defined() != h5py.h5d.FILL_VALUE_USER_DEFINED:
        return None
    value = np.asarray(dataset.fillvalue)
    if lengths and len({*value.ravel().tolist()}) != 1:
        raise RefusalError("has a fill value that differs from feature to feature: write it again without one")
    number = value.ravel()[0].item() if value.dtype.kind in "iuf" else None
    if number is None or np.isfinite(number):
        return number
    return "NaN" if number != number else "Infinity" if number > 0 else "-Infinity"


def attributes_of(node: Any) -> dict[str, Any]:
    """Return the attributes that are numbers or texts, or lists of them; one that is damaged as a text that says so."""
    found: dict[str, Any] = {}
    for name in islice(node.attrs, 1000):
        if name in _OF_SCALES:
            continue
        try:
            held = node.attrs.get_id(name)
            if held.get_storage_size() <= 64 * _MOST_VALUES and np.prod(held.shape or (), dtype=float) <= _MOST_VALUES:
                value = _plain(node.attrs[name])
                found |= {} if value is None else {name: value}
        except ERRORS:
            found[name] = "(cannot be read)"
    return found


def _plain(value: Any) -> Any:
    """Return numbers and texts of numpy as JSON has them; None for values of other kinds."""
    if isinstance(value, np.ndarray):
        items = [_plain(item) for item in value.tolist()] if value.ndim <= 1 else [None]
        return _plain(value.item()) if value.ndim == 0 else None if None in items else items
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str) else None
