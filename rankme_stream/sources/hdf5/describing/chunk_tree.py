"""Index of the chunks of a dataset in a B-tree of version 1, read node by node as its format says it.

That is how h5py and netCDF write all but the newest files. The library is slow to list it, and lists chunks
that it does not find when it reads them, if a key is damaged: such a tree is refused here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import h5py
import numpy as np

from .numbers import RefusalError

Read = Callable[[int, int], bytes]  # of an offset and a length; fewer bytes where the file ends
Key = tuple[int, ...]
_NODE = struct.Struct("<4sBBH16x")
_READ_AHEAD = 64  # entries of a node, which has as many unless the file says otherwise
_BASE_AND_END_AT = {0: (24, 40), 1: (28, 44), 2: (12, 28), 3: (12, 28)}  # addresses in the superblock, by its version
_CONTINUATION, _LAYOUT = 0x10, 0x08
_MOST_BLOCKS = 1024  # of an object header
_DAMAGED = "has a damaged index of chunks: copy or write it again"


def end_of_file(file: Any, read: Read, n_bytes: int) -> int:
    """Return where the file ends by its superblock, behind which the library reads nothing."""
    if file.userblock_size:
        return n_bytes
    head = read(0, 64)
    if head[8] not in _BASE_AND_END_AT:
        return n_bytes
    base, end = (int.from_bytes(head[at : at + 8], "little") for at in _BASE_AND_END_AT[head[8]])
    return min(n_bytes, end - base)


def tree_address(dataset: Any, read: Read) -> int | None:
    """Return the address of the B-tree of a dataset; None where its index is of another kind, or it has no chunk."""
    file = dataset.file
    if file.userblock_size or file.id.get_create_plist().get_sizes() != (8, 8):
        return None
    for kind, content in _messages(read, h5py.h5o.get_info(dataset.id).addr):
        if kind == _LAYOUT and content[:3] == bytes((3, 2, len(dataset.shape) + 1)):
            address = int.from_bytes(content[3:11], "little")
            return None if address == 2**64 - 1 else address
    return None


def chunks_in_tree(read: Read, address: int, chunks: Sequence[int]) -> Iterator[Any]:
    """Yield the entries of the leaves, ascending: arrays with the fields size, skipped, at and child.

    Raises
    ------
    RefusalError
        If a node is damaged, or its keys are not those between which the library would look for its chunks.
    """
    entry = np.dtype(
        [("size", "<u4"), ("skipped", "<u4"), ("at", "<u8", (len(chunks) + 1,)), ("child", "<u8")]
    )  # fmt: skip
    steps = np.array([*chunks, 1], np.uint64)

    def node(address: int, level: int | None, low: Key | None, high: Key | None) -> Iterator[Any]:
        content = read(address, _NODE.size + (_READ_AHEAD + 1) * entry.itemsize)
        if len(content) < _NODE.size:
            raise RefusalError(_DAMAGED)
        signature, kind, found_level, count = _NODE.unpack_from(content)
        n_bytes = _NODE.size + (count + 1) * entry.itemsize - 8
        if len(content) < n_bytes:
            content = read(address, n_bytes)
        if signature != b"TREE" or kind != 1 or level not in (None, found_level) or len(content) < n_bytes:
            raise RefusalError(_DAMAGED)
        entries = np.frombuffer(content[:n_bytes] + bytes(8), entry, count + 1, _NODE.size)
        places = entries["at"]
        if (places[:-1] % steps).any() or (places[:-1, -1] != 0).any():
            raise RefusalError(_DAMAGED)
        if not count:
            return
        keys: list[Key] = [tuple(place) for place in (places.tolist() if found_level else places[[0, -2, -1]].tolist())]
        ends = keys[-2] < keys[-1] and (low is None or low <= keys[0]) and (high is None or keys[-2] < high)
        if not ends or (found_level and any(a >= b for a, b in pairwise(keys))):
            raise RefusalError(_DAMAGED)
        if not found_level:
            yield entries[:-1]
            return
        for child, (a, b) in zip(entries["child"][:-1].tolist(), pairwise(keys), strict=True):
            yield from node(child, found_level - 1, a, b)

    return node(address, None, None, None)


def _messages(read: Read, address: int) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of the messages of an object header, of either version."""
    head = read(address, 64)
    if head[:4] == b"OHDR":
        flags = head[5]
        first = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        blocks = [(address + first + width, int.from_bytes(head[first : first + width], "little"))]
        header, skipped, tail = struct.Struct("<BHB2x" if flags & 4 else "<BHB"), 4, 4
    elif head[:1] == b"\1":
        blocks, header, skipped, tail = [(address + 16, int.from_bytes(head[8:12], "little"))], _V1, 0, 0
    else:
        return
    for place in range(_MOST_BLOCKS):
        if place == len(blocks):
            return
        content, at = read(*blocks[place]), 0
        while at + header.size <= len(content):
            kind, n_bytes = header.unpack_from(content, at)[:2]
            at += header.size
            found = content[at : at + n_bytes]
            at += n_bytes
            if kind == _CONTINUATION and len(found) >= 16:
                start, length = struct.unpack_from("<QQ", found)
                blocks.append((start + skipped, min(length - skipped - tail, 2**20)))
            yield kind, found


_V1 = struct.Struct("<HHB3x")
