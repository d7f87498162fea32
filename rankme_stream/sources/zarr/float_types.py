"""Number types of zarr metadata that zarr-python cannot open: documents are shown to it with unsigned integers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from rankme_stream.numerics.dtypes import named_type
from rankme_stream.sources.value_types import bits_of

_TYPES = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
_V2_TYPES = {"uint16": "<u2", "uint8": "|u1"}
_IN_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_DOCUMENTS = ("zarr.json", ".zarray", ".zmetadata")


def float_type(metadata: Mapping[str, Any]) -> str | None:
    """Return the name of the type that the document of an array declares, if it is one of those that numpy lacks."""
    declared = metadata.get("data_type") if metadata.get("zarr_format") == 3 else metadata.get("dtype")
    if isinstance(declared, Mapping):
        declared = declared.get("name")
    return declared if isinstance(declared, str) and declared in _TYPES else None


def is_document(key: str) -> bool:
    """Return whether a key holds metadata of arrays."""
    return key.rpartition("/")[2] in _DOCUMENTS


def shown(document: bytes) -> bytes:
    """Return a document with these types, and their fill values, as unsigned integers; others unchanged."""
    if not any(name.encode() in document for name in _TYPES):
        return document
    try:
        tree = json.loads(document)
        _replace(tree)
        return json.dumps(tree).encode()
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError):
        return document  # zarr says what is wrong with it


def _replace(tree: Any) -> None:
    """Replace the types in a document, and in those that it consolidates."""
    if isinstance(tree, list):
        for item in tree:
            _replace(item)
        return
    if not isinstance(tree, dict):
        return
    name = float_type(tree) if "shape" in tree else None
    if name is None:
        for item in tree.values():
            _replace(item)
        return
    is_v3 = tree["zarr_format"] == 3
    tree["data_type" if is_v3 else "dtype"] = _TYPES[name] if is_v3 else _V2_TYPES[_TYPES[name]]
    if (fill := tree.get("fill_value")) is not None:
        tree["fill_value"] = _bits(fill, name)


def _bits(fill: Any, name: str) -> int:
    """Return the bit pattern of a fill value: a number, a word, or the bits in hexadecimal digits."""
    kind = named_type(name)
    if isinstance(fill, str) and re.fullmatch("0x[0-9a-fA-F]{1,4}", fill):
        return int(fill, 16)
    return int(bits_of(_IN_WORDS[fill] if isinstance(fill, str) else float(fill), kind)[0, 0])
