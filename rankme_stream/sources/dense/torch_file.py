"""Files of ``torch.save``, read without torch: a zip file of a pickle, which runs nothing, and of stored numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np

from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.numerics.dtypes import named_type
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.dense.dense_rows import DenseRows
from rankme_stream.sources.dense.inert_pickle import LARGEST_PICKLE, Called, Named, Persistent, PickleError, tree_of
from rankme_stream.sources.dense.layout import DenseLayout
from rankme_stream.sources.dense.named_arrays import (
    NamedArray,
    chosen_name,
    layout_of_chosen,
    refuse_name,
    refuse_unscaled,
)
from rankme_stream.sources.dense.zip_directory import STORED, Member, data_offset, zip_members
from rankme_stream.sources.stores.stored_file import OpenFile, StoredFile

_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Char": "int8", "Byte": "uint8",
    "Short": "int16", "Int": "int32", "Long": "int64",
}  # fmt: skip
_STORAGE_TYPES = {f"torch.{prefix}Storage": name for prefix, name in _STORAGES.items()}
_UNTYPED = "torch.storage.UntypedStorage"
_DTYPES = {
    f"torch.{name}": name
    for name in (*_STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
}
_LACKING = {"bfloat16", "float8_e4m3fn", "float8_e5m2"}  # in numpy
_REBUILD, _REBUILD_TYPED = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_OF_TYPE = "torch._tensor._rebuild_from_type_v2"
_PLAIN_TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
ALLOWED = re.compile(
    r"torch\.(\w*Storage|storage\.\w*Storage|device|Size|Tensor|b?float\d*\w*|u?int\d+|bool|complex\d+|qu?int\w+"
    r"|per_tensor_affine|per_channel_affine|strided|sparse_\w+|nn\.parameter\.\w+"
    r"|_utils\._rebuild_\w+|_tensor\._rebuild_\w+|serialization\._get_layout)"
    r"|collections\.(OrderedDict|defaultdict|Counter)"
    r"|(builtins|__builtin__)\.(set|frozenset|list|dict|tuple|bytearray|bytes|str|int|float|complex|slice|range)"
    r"|numpy\.(ndarray|dtype|dtypes\.\w+|_?core\.multiarray\.(_reconstruct|scalar)|_?core\.numeric\._frombuffer)"
    r"|_codecs\.encode|argparse\.Namespace|pathlib\.\w*Path|datetime\.\w+"
)
# Small members and what they hold; all but the first may be missing.
_FACTS = {
    "version": re.compile(rb"\d+\s*"), "byteorder": re.compile(rb"little|big"), ".format_version": re.compile(rb"\d+"),
    ".storage_alignment": re.compile(rb"\d+"), ".data/serialization_id": re.compile(rb"[\x20-\x7e]*"),
}  # fmt: skip
_DEVICES = re.compile(r"(cpu|cuda|mps|xpu|hpu|npu|xla|mtia|maia|ipu|privateuseone)(:\d+)?")  # that torch restores from
_DEEPEST, _LONGEST_NAME = 32, 1000
_SAVE = "save the tensor by itself: torch.save(tensor.contiguous().cpu(), path)"


class _Tensor(NamedTuple):
    """Tensor of a file: its layout is that in its record, a member of the zip file."""

    array: NamedArray
    record: Member | None = None


def open_rows(file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> DenseRows:
    """Open the rows of a tensor in a file of ``torch.save``.

    Raises
    ------
    SourceError, StorageError
        If the file cannot be read, is damaged, of the form before torch 1.6, or holds no such tensor of numbers.
    """
    with file.opened() as opened:
        if opened.read(0, 4) != b"PK\x03\x04":
            raise SourceFormatError(
                f"{file.uri} is no file of torch.save as torch 1.6 and later write it: where you trust it, write it "
                "again with torch.save(torch.load(path, weights_only=True), path)"
            )
        archive = _Archive(opened, file.uri)
        tensors = archive.tensors()
        arrays = {name: one.array for name, one in tensors.items()}
        if [*arrays] == [""]:
            refuse_name(inside, options, file.uri)
        name = chosen_name(arrays, inside, file.uri, is_scales=is_scales)
        layout = layout_of_chosen(arrays, name, file.uri)
        record = tensors[name].record
        assert record is not None
        start = data_offset(opened, record, file.uri)
    refuse_unscaled(name, arrays, layout, options, file.uri)
    layout = replace(layout, offset=layout.offset + start)
    return DenseRows(file, layout, options, inside=name, is_scales=is_scales)


class _Archive:
    """Zip file of ``torch.save``."""

    def __init__(self, opened: OpenFile, uri: str) -> None:
        self._opened, self._uri = opened, uri
        self._members = zip_members(opened, uri)
        roots = [name.removesuffix("/data.pkl") for name in self._members if name.endswith("/data.pkl")]
        if len(roots) != 1 or "/" in roots[0]:
            raise SourceFormatError(f"{uri} is a zip file, and none of torch.save")
        self._root = roots[0]
        if f"{self._root}/constants.pkl" in self._members:
            raise SourceFormatError(f"{uri} is a model of TorchScript, and no file of torch.save: {_SAVE}")
        held = {name: self._bytes(name, 64) for name in _FACTS if f"{self._root}/{name}" in self._members}
        is_outside = any(not name.startswith(f"{self._root}/") for name in self._members)
        if is_outside or "version" not in held or not all(_FACTS[name].fullmatch(text) for name, text in held.items()):
            raise CorruptChunkError(f"{uri} is damaged: what it says of itself is none of torch's; write it again")
        self._order: Literal["<", ">"] = ">" if held.get("byteorder") == b"big" else "<"

    def tensors(self) -> dict[str, _Tensor]:
        """Return the tensors by their keys, joined by full stops; the only thing that a file holds has no key."""
        try:
            tree = tree_of(self._bytes("data.pkl", LARGEST_PICKLE), ALLOWED)
        except PickleError as error:
            raise SourceFormatError(f"the pickle in {self._uri} is not read: {error}; {_SAVE}") from None
        found: dict[str, _Tensor] = {}
        for name, rebuilt in _tensors_of(tree, "", set(), 0, self._uri):
            if name in found:
                raise SourceFormatError(f"{self._uri} holds two tensors of the name {name[:100]!r}: {_SAVE}")
            found[name] = self._tensor(rebuilt)
        return found

    def _bytes(self, name: str, most: int) -> bytes:
        member = self._members[f"{self._root}/{name}"]
        if member.method != STORED or member.n_bytes > most:
            raise SourceFormatError(f"{name} in {self._uri} is compressed or has more than {most:,} bytes: {_SAVE}")
        return self._opened.read(data_offset(self._opened, member, self._uri), member.n_bytes)

    def _tensor(self, rebuilt: Called) -> _Tensor:
        """Return a tensor by how torch would rebuild it."""
        rebuilt = _unwrapped(rebuilt)
        needed = {_REBUILD: 6, _REBUILD_TYPED: 7}.get(rebuilt.name, -1)
        if not needed <= len(rebuilt.arguments) <= needed + 1:
            why = f"is a tensor that {rebuilt.name[:100]} makes, which is not read: {_SAVE}"
            return _Tensor(NamedArray(None, "", None, why))
        storage, offset, shape, strides, *_ = rebuilt.arguments
        if len(rebuilt.arguments) > needed and rebuilt.arguments[-1]:
            return _Tensor(NamedArray(None, "", None, f"is a view that negates or conjugates its numbers: {_SAVE}"))
        key = storage.key if isinstance(storage, Persistent) else None
        are_lengths = _are_lengths(shape) and _are_lengths(strides) and _are_lengths((offset,))
        if not (
            isinstance(key, tuple)
            and len(key) == 5
            and key[0] == "storage"
            and are_lengths
            and len(shape) == len(strides)
        ):
            raise self._contradiction()
        kind = rebuilt.arguments[6] if needed == 7 else None
        return self._view(key, (offset, shape, strides), kind.name if isinstance(kind, Named) else "")

    def _view(self, key: tuple[Any, ...], view: tuple[int, Sequence[int], Sequence[int]], kind: str) -> _Tensor:
        """Return a view of a storage, by its first number, lengths and strides."""
        (offset, shape, strides), (_, named, number, device, n_held) = view, key
        storage = named.name if isinstance(named, Named) else ""
        type_name = _DTYPES.get(kind) if storage == _UNTYPED else _STORAGE_TYPES.get(storage)
        if type_name is None:
            refusal = f"holds {(kind or storage)[:100]}, which is not read: convert it first"
            return _Tensor(NamedArray(tuple(shape), (kind or storage)[:100], None, refusal))
        dtype = named_type(type_name).dtype.newbyteorder(self._order)
        record = self._members.get(f"{self._root}/data/{number}") if isinstance(number, str) else None
        held_size = 1 if storage == _UNTYPED else dtype.itemsize
        is_known = isinstance(device, str) and _DEVICES.fullmatch(device)
        if record is None or not is_known or not _are_lengths((n_held,)) or record.n_bytes != n_held * held_size:
            raise self._contradiction()
        layout = _layout(tuple(shape), tuple(strides), dtype)
        if layout is None or record.method != STORED:
            refusal = f"has shape {shape} and strides {strides}, or is compressed: {_SAVE}"
            return _Tensor(NamedArray(tuple(shape), type_name, None, refusal))
        first = offset * dtype.itemsize
        if first + layout.n_bytes > record.n_bytes:
            raise self._contradiction()
        name = type_name if type_name in _LACKING else None
        header = f"{number} {offset} {shape} {strides} {type_name} {record.crc}".encode()
        layout = replace(layout, offset=first, type_name=name, header=header)
        return _Tensor(NamedArray(tuple(shape), type_name, layout), record)

    def _contradiction(self) -> CorruptChunkError:
        return CorruptChunkError(
            f"{self._uri} is damaged: its pickle describes a tensor that its numbers do not fit; write it again"
        )


def _tensors_of(tree: Any, name: str, seen: set[int], depth: int, uri: str) -> Iterator[tuple[str, Called]]:
    """Yield the tensors in a tree of dicts, lists and tuples, each of which is looked at once, with their keys."""
    if isinstance(tree, Called):
        if tree.name.startswith(("torch._utils._rebuild", "torch._tensor._rebuild")):
            yield name, tree
        return
    if not isinstance(tree, dict | list | tuple) or id(tree) in seen:
        return
    seen.add(id(tree))
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, Called | dict | list | tuple):
            inner = f"{name}.{key}" if name else f"{key}"
            if len(inner) > _LONGEST_NAME or depth > _DEEPEST:
                raise SourceFormatError(f"{uri} holds dicts in dicts, or keys, without end: {_SAVE}")
            yield from _tensors_of(value, inner, seen, depth + 1, uri)


def _unwrapped(rebuilt: Called) -> Called:
    """Return how the tensor of a parameter, or one with attributes, is rebuilt."""
    for _ in range(_DEEPEST):
        if rebuilt.name in _PARAMETERS and rebuilt.arguments and isinstance(rebuilt.arguments[0], Called):
            rebuilt = rebuilt.arguments[0]
        elif rebuilt.name == _OF_TYPE and len(rebuilt.arguments) == 4:
            function, kind, arguments, _ = rebuilt.arguments
            is_plain = isinstance(kind, Named) and kind.name in _PLAIN_TYPES
            if not (is_plain and isinstance(function, Named) and isinstance(arguments, tuple)):
                return rebuilt
            rebuilt = Called(function.name, arguments)
        else:
            return rebuilt
    return rebuilt


def _layout(shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]) -> DenseLayout | None:
    """Return where numbers of these strides lie from their first; None where they lie otherwise than rows do."""
    if _are_dense(shape, strides):
        return DenseLayout(shape, dtype, 0)
    if _are_dense(shape[::-1], strides[::-1]):
        return DenseLayout(shape[::-1], dtype, 0, is_fortran=True)
    if len(shape) == 2 and strides[0] > shape[1] and (strides[1] == 1 or shape[1] == 1):
        return DenseLayout(shape, dtype, 0, between=(strides[0] - shape[1]) * dtype.itemsize)
    return None


def _are_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Return whether strides are those of C order."""
    expected = 1
    for length, stride in zip(shape[::-1], strides[::-1], strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def _are_lengths(numbers: Any) -> bool:
    return isinstance(numbers, tuple) and len(numbers) <= 64 and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
