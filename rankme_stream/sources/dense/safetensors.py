"""Safetensors files, whose header is JSON, and indexes of several of them."""

from __future__ import annotations

import json
import os
import posixpath
from math import prod
from typing import Any

import numpy as np

from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.dense.dense_rows import DenseRows
from rankme_stream.sources.dense.layout import DenseLayout
from rankme_stream.sources.dense.named_arrays import NamedArray, chosen_name, layout_of_chosen, refuse_unscaled
from rankme_stream.sources.stores.stored_file import StoredFile
from rankme_stream.sources.stores.stored_files import stored_file

INDEX_ENDING = ".safetensors.index.json"
LARGEST_HEADER = 4 * 2**20  # bytes of JSON: about 40,000 tensors, and 150 MiB of memory at worst
_LENGTH = 8  # bytes
_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8",
    "U32": "<u4", "U16": "<u2", "U8": "u1", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1",
}  # fmt: skip
_TYPE_NAMES = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_BITS_OF_OTHERS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "C64": 64,
}  # fmt: skip
_FIELDS = {"dtype", "shape", "data_offsets"}


def open_rows(file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> DenseRows:
    """Open the rows of a tensor in a safetensors file, or in one of those that an index lists.

    Raises
    ------
    SourceError, StorageError
        If a file cannot be read, is damaged, or holds no such tensor of numbers.
    """
    if file.uri.lower().partition("?")[0].endswith(INDEX_ENDING):
        return _open_shard(file, inside, options, is_scales)
    with file.opened() as opened:
        length = int.from_bytes(opened.read(0, _LENGTH), "little")
        if not 2 <= length <= opened.n_bytes - _LENGTH:
            raise SourceFormatError(f"{file.uri} is no safetensors file, or it is cut: copy or write it again")
        _check_length(length, file.uri)
        header, n_bytes = opened.read(_LENGTH, length), opened.n_bytes
    tensors = tensors_of(header, n_bytes, file.uri)
    name = chosen_name(tensors, inside, file.uri, is_scales=is_scales)
    layout = layout_of_chosen(tensors, name, file.uri)
    refuse_unscaled(name, tensors, layout, options, file.uri)
    return DenseRows(file, layout, options, inside=name, is_scales=is_scales)


def tensors_of(header: bytes, n_bytes: int, uri: str) -> dict[str, NamedArray]:
    """Return the tensors of a file of so many bytes by its JSON header, which they fill, one behind another.

    Raises
    ------
    CorruptChunkError
        If the header is damaged, or its tensors do not fill the file.
    """
    tensors, ranges = {}, []
    for name, held in _json_object(header, uri).items():
        if name == "__metadata__":
            continue
        one, start, stop = _tensor(held, _LENGTH + len(header))
        if one is None:
            raise CorruptChunkError(f"{uri} is damaged: its header describes {name[:100]!r} wrongly; write it again")
        tensors[name] = one
        ranges.append((start, stop))
    end = 0
    for start, stop in sorted(ranges):
        if start != end:
            raise CorruptChunkError(f"{uri} is damaged: its tensors leave gaps or overlap at byte {start:,}")
        end = stop
    expected = _LENGTH + len(header) + end
    if expected != n_bytes:
        raise CorruptChunkError(
            f"{uri} has {n_bytes:,} bytes, and its header says {expected:,}: copy or write it again"
        )
    return tensors


def _tensor(held: Any, begin: int) -> tuple[NamedArray | None, int, int]:
    """Return a tensor, None if its description contradicts itself, and where it begins and ends behind the header."""
    if not isinstance(held, dict) or held.keys() != _FIELDS:
        return None, 0, 0
    kind, shape, offsets = held["dtype"], held["shape"], held["data_offsets"]
    if not (isinstance(kind, str) and _are_lengths(shape) and _are_lengths(offsets) and len(offsets) == 2):
        return None, 0, 0
    start, stop = offsets
    bits = 8 * np.dtype(_NUMPY[kind]).itemsize if kind in _NUMPY else _BITS_OF_OTHERS.get(kind, 0)
    if not bits or stop < start or prod(shape) * bits != 8 * (stop - start):
        return None, 0, 0
    if kind not in _NUMPY:
        refusal = f"holds {kind}, which is not read: convert it first"
        return NamedArray(tuple(shape), kind, None, refusal), start, stop
    header = f"{kind} {shape} {offsets} {begin}".encode()
    layout = DenseLayout(
        tuple(shape), np.dtype(_NUMPY[kind]), begin + start, type_name=_TYPE_NAMES.get(kind), header=header
    )
    return NamedArray(tuple(shape), kind, layout), start, stop


def _are_lengths(numbers: Any) -> bool:
    return isinstance(numbers, list) and len(numbers) <= 64 and all(type(n) is int and 0 <= n < 2**63 for n in numbers)


def _json_object(text: bytes, uri: str) -> dict[str, Any]:
    """Return an object of JSON in which no name stands twice.

    Raises
    ------
    CorruptChunkError
        If it is none.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands twice")
        return found

    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not begin with '{'")
        found = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise CorruptChunkError(f"{uri} is damaged: its header is no JSON object ({str(error)[:200]})") from None
    if not isinstance(found, dict):
        raise CorruptChunkError(f"{uri} is damaged: its header is no JSON object")
    return found


def _open_shard(file: StoredFile, inside: str, options: ArrayOptions, is_scales: bool) -> DenseRows:
    """Open a tensor in the file that an index names for it, which lies beside the index."""
    with file.opened() as opened:
        _check_length(opened.n_bytes, file.uri)
        index = opened.read(0, opened.n_bytes)
    names = _json_object(index, file.uri).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise SourceFormatError(f"{file.uri} is no index of safetensors files: it has no 'weight_map'")
    name = chosen_name({name: NamedArray(None, "") for name in names}, inside, file.uri, is_scales=is_scales)
    shard = names[name]
    if not isinstance(shard, str) or shard != os.path.basename(shard) or not shard.lower().endswith(".safetensors"):
        raise SourceFormatError(f"{file.uri} names {str(shard)[:100]!r} for {name[:100]!r}: a file beside it is needed")
    address = file.address.partition("?")[0] if "://" in file.address else file.address
    beside = posixpath.join(posixpath.dirname(address), shard)
    return open_rows(stored_file(beside), name, options, is_scales=is_scales)


def _check_length(length: int, uri: str) -> None:
    if length > LARGEST_HEADER:
        raise SourceFormatError(
            f"{uri} has a header of {length:,} bytes, and {LARGEST_HEADER:,} are read: save the rows to a file of "
            "their own"
        )
