"""JSON that is checked against the types of its fields, whole, before anything uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from rankme_stream.errors import StateError
from rankme_stream.numerics.json_numbers import read

Signed = Annotated[int, "signed"]
"""A whole number that may be negative; in records a plain ``int`` is a count or a row number."""

_MOST_INTEGER = 2**63
_MOST_DIGITS = 40
_DEEPEST = 32  # of values of any type
_BYTES_A_VALUE = 16  # of a file, for each value in its JSON: a value takes some 100 bytes in memory
_VALUES_FREE = 2**16


def parse(text: bytes, file_bytes: int) -> Any:
    """Return the value of a JSON document in a file of ``file_bytes`` bytes.

    Raises
    ------
    StateError
        If it is no JSON, holds NaN, infinity or a number of too many digits, or more values than such a file needs.
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > _VALUES_FREE + file_bytes // _BYTES_A_VALUE:
        raise StateError("its description holds more values than the file has room for")
    try:
        return read(text, _MOST_DIGITS)
    except RecursionError:
        raise StateError("its description is nested too deeply") from None
    except ValueError as error:
        raise StateError(f"its description is no JSON: {error}") from None


def check(value: Any, kind: Any, place: str) -> None:
    """Raise ``StateError`` unless a JSON value is of a type; ``place`` names it in the message.

    Parameters
    ----------
    kind
        ``int`` (a count, below 2^63), ``Signed``, ``float`` (or a count), ``str``, ``bool``, ``None``, ``Any``; a
        ``TypedDict`` or dataclass, whose fields with defaults may be absent; ``list``, ``tuple``, ``dict``, ``Literal``
        and unions of these.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        kind = next((one for one in arguments if _is_like(value, one)), arguments[0])
        check(value, kind, place)
    elif kind is Any:
        _check_depth(value, place, _DEEPEST)
    elif is_typeddict(kind) or is_dataclass(kind):
        _check_fields(value, kind, place)
    elif origin is list:
        for number, item in enumerate(_of(value, list, place)):
            check(item, arguments[0], f"{place}[{number}]")
    elif origin is tuple:
        if len(_of(value, list, place)) != len(arguments):
            raise StateError(f"{place} has {len(value)} values in place of {len(arguments)}")
        for number, (item, each) in enumerate(zip(value, arguments, strict=True)):
            check(item, each, f"{place}[{number}]")
    elif origin is dict:
        for name, item in _of(value, dict, place).items():
            check(item, arguments[1], f"{place}/{_shown(name)}")
    elif not _SCALARS.get(kind, lambda given: given in get_args(kind))(value):
        raise StateError(f"{place} is {_shown(value)} in place of {_name(kind)}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_INTEGER


_SCALARS: dict[Any, Callable[[Any], bool]] = {
    int: _is_count,
    Signed: lambda value: type(value) is int and abs(value) < _MOST_INTEGER,
    float: lambda value: type(value) is float or _is_count(value),
    str: lambda value: type(value) is str,
    bool: lambda value: type(value) is bool,
    NoneType: lambda value: value is None,
}


_NAMES: dict[Any, str] = {
    int: "a count", Signed: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null",
    list: "a list", dict: "an object",
}  # fmt: skip


def _is_like(value: Any, kind: Any) -> bool:
    """Return whether a value looks like one of a type of a union."""
    return _SCALARS[kind](value) if kind in _SCALARS else isinstance(value, get_origin(kind) or dict)


def _of(value: Any, kind: type, place: str) -> Any:
    if type(value) is not kind:
        raise StateError(f"{place} is {_shown(value)} in place of {_name(kind)}")
    return value


def _check_fields(value: Any, kind: Any, place: str) -> None:
    hints, required = _fields_of(kind)
    absent = sorted(required - _of(value, dict, place).keys())
    if absent:
        raise StateError(f"{place} lacks {', '.join(absent)}")
    if is_dataclass(kind) and (unknown := sorted(value.keys() - hints.keys())):
        raise StateError(f"{place} holds {_shown(unknown[0])}, which is never written")
    for name, hint in hints.items():
        if name in value:
            check(value[name], hint, f"{place}/{name}")


@cache
def _fields_of(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the types of the fields of a record, and the names of those that must be there."""
    hints = get_type_hints(kind, include_extras=True)
    if is_dataclass(kind):
        no_default = (one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING)
        return hints, frozenset(no_default)
    optional = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
    bare = {name: get_args(hint)[0] if name in optional else hint for name, hint in hints.items()}
    return bare, frozenset(hints.keys() - optional)


def _check_depth(value: Any, place: str, left: int) -> None:
    if left == 0:
        raise StateError(f"{place} is nested too deeply")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(item, place, left - 1)


def _name(kind: Any) -> str:
    return _NAMES[kind] if kind in _NAMES else " or ".join(map(repr, get_args(kind)))


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"a {type(value).__name__}"
    text = json.dumps(value)
    return text if len(text) <= _MOST_DIGITS else f"{text[:_MOST_DIGITS]}..."
