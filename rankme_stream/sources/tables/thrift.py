"""Structures in Thrift's compact protocol, in which Parquet describes a file and its pages: read, and written again."""

from __future__ import annotations

from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
_DEEPEST = 16
_LONGEST_NUMBER = 10  # bytes
Struct = dict[int, tuple[int, Any]]  # type and value of each field, by its number


class ThriftError(ValueError):
    """Bytes that are no structure, or end within it."""


def read_struct(data: bytes, at: int = 0, *, until: int | None = None) -> tuple[Struct, int]:
    """Return a structure and the offset behind it.

    Parameters
    ----------
    until
        Number of the last field to read; None for all.

    Raises
    ------
    ThriftError
        If the bytes are none, or end before it does.
    """
    try:
        return _struct(data, at, 0, until)
    except IndexError:
        raise ThriftError("the structure is cut") from None


def write_struct(struct: Struct) -> bytes:
    """Return the bytes of a structure."""
    out, last = bytearray(), 0
    for number, (kind, value) in sorted(struct.items()):
        kind = (TRUE if value else FALSE) if kind in (TRUE, FALSE) else kind
        if number - last < 16:
            out.append((number - last) << 4 | kind)
        else:
            out.append(kind)
            out += _zigzag(number)
        last = number
        if kind not in (TRUE, FALSE):
            out += _written(kind, value)
    return bytes(out) + b"\0"


def _struct(data: bytes, at: int, depth: int, until: int | None = None) -> tuple[Struct, int]:
    if depth > _DEEPEST:
        raise ThriftError("structures are nested too deeply")
    found: Struct = {}
    number = 0
    while data[at]:
        kind, step = data[at] & 15, data[at] >> 4
        at += 1
        if step:
            number += step
        else:
            number, at = _signed(data, at)
        if kind in (TRUE, FALSE):
            found[number] = TRUE, kind == TRUE
        else:
            value, at = _value(data, at, kind, depth)
            found[number] = kind, value
        if number == until:
            return found, at
    return found, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (I16, I32, I64):
        return _signed(data, at)
    if kind in (TRUE, FALSE, BYTE):  # booleans in a list take a byte
        return data[at], at + 1
    if kind == DOUBLE:
        return _bytes(data, at, 8)
    if kind == BINARY:
        length, at = _unsigned(data, at)
        return _bytes(data, at, length)
    if kind in (LIST, SET):
        count, inner = data[at] >> 4, data[at] & 15
        at += 1
        if count == 15:
            count, at = _unsigned(data, at)
        if count > len(data) - at:
            raise ThriftError("a list is longer than the file")
        items = []
        for _ in range(count):
            item, at = _value(data, at, inner, depth + 1)
            items.append(item)
        return (inner, items), at
    if kind == STRUCT:
        return _struct(data, at, depth + 1)
    raise ThriftError(f"there is no type {kind}")


def _bytes(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if length > len(data) - at:
        raise IndexError
    return bytes(data[at : at + length]), at + length


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for k in range(_LONGEST_NUMBER):
        byte = data[at + k]
        value |= (byte & 127) << 7 * k
        if byte < 128:
            return value, at + k + 1
    raise ThriftError("a number is too long")


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    return (value >> 1) ^ -(value & 1), at


def _written(kind: int, value: Any) -> bytes:
    if kind in (I16, I32, I64):
        return _zigzag(value)
    if kind in (TRUE, FALSE, BYTE):
        return bytes([value])
    if kind == DOUBLE:
        return bytes(value)
    if kind == BINARY:
        return _varint(len(value)) + bytes(value)
    if kind == STRUCT:
        return write_struct(value)
    inner, items = value
    head = bytes([len(items) << 4 | inner]) if len(items) < 15 else bytes([0xF0 | inner]) + _varint(len(items))
    return head + b"".join(_written(inner, item) for item in items)


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
