"""Program that says what lies in HDF5 files, one after another, in a process of its own with limits.

HDF5 crashes on some damaged files and never returns from others. This folder imports nothing of the package around it,
so that the process starts fast; it answers in frames (see `send`).
"""

from __future__ import annotations

import io
import json
import os
import resource
import select
import signal
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import h5py
import numpy as np

from .chunk_tree import Read, chunks_in_tree, end_of_file, tree_address
from .contents import find, only, words_of_group
from .numbers import ERRORS, AbsentError, RefusalError, attributes_of, fill_value, filters_of, number_type

CPU_SECONDS = 5.0  # between two frames: more is a loop without an end
MEMORY = 2**28  # bytes beside what the libraries take
IDLE_SECONDS = 60.0
BATCH = 2**14  # chunks in a frame
_HEADER = struct.Struct("<cq")  # kind and length of a frame
_PAGE, _PAGES_HELD = 2**18, 64  # of remote files
_MOST_BESIDE = 100
_COUNTS_USER_BLOCK = (1, 14, 4)  # release of HDF5 from which offsets of chunks are those in the file


def send(kind: bytes, content: bytes) -> None:
    """Write a frame: ``D`` a description, ``I`` places of chunks, ``E`` a refusal, ``R`` bytes that are wanted."""
    sys.stdout.buffer.write(_HEADER.pack(kind, len(content)) + content)
    sys.stdout.buffer.flush()
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)


class _AskedFile(io.RawIOBase):
    """File whose bytes are asked for by frames, in pages."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__()
        self._n_bytes, self._position = n_bytes, 0
        self._pages: OrderedDict[int, bytes] = OrderedDict()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._n_bytes)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view) and self._position < self._n_bytes:
            number, skipped = divmod(self._position, _PAGE)
            piece = self._page(number)[skipped:][: len(view) - done]
            view[done : done + len(piece)] = piece
            self._position, done = self._position + len(piece), done + len(piece)
        return done

    def _page(self, number: int) -> bytes:
        if number not in self._pages:
            first = number * _PAGE
            send(b"R", struct.pack("<qq", first, min(_PAGE, self._n_bytes - first)))
            self._pages[number] = _received()
            if len(self._pages) > _PAGES_HELD:
                self._pages.popitem(last=False)
        self._pages.move_to_end(number)
        return self._pages[number]


def describe(file: Any, path: str) -> tuple[dict[str, Any], Any]:
    """Return what a dataset is, and the dataset; ``path`` is empty for the only one that fits."""
    where, dataset = find(file, path) if path else only(file)
    if isinstance(dataset, h5py.Group):
        raise RefusalError(words_of_group(dataset, path))
    if not isinstance(dataset, h5py.Dataset):
        raise RefusalError("is a data type, not a dataset: name a dataset after '::'")
    dtype, lengths, item = number_type(dataset)
    properties = dataset.id.get_create_plist()
    layout, chunks, offset = properties.get_layout(), None, None
    if dataset.shape is None:
        raise RefusalError("has no values (a null dataspace): write rows first")
    if layout == h5py.h5d.VIRTUAL:
        raise RefusalError(
            "is a virtual dataset, whose rows lie in other files: score these, as a folder or pattern, or copy it by "
            "h5repack"
        )
    if properties.get_external_count():
        raise RefusalError("keeps its values in other files (external storage): copy it by h5repack")
    if layout == h5py.h5d.COMPACT:
        raise RefusalError(
            "is stored inside its header (compact): write it again without that, as by h5repack -l CONTI"
        )
    if layout == h5py.h5d.CHUNKED:
        chunks = [*properties.get_chunk(), *lengths]
    else:
        offset = dataset.id.get_offset()
    return {
        "path": where, "shape": [*dataset.shape, *lengths], "dtype": dtype, "item": item, "chunks": chunks,
        "offset": offset,
        "filters": filters_of(properties), "fill": fill_value(dataset, properties, lengths),
        "attributes": attributes_of(dataset), "names": _names(dataset, len(lengths)),
        "groups": _groups(file, where), "beside": _beside(file, where),
    }, dataset  # fmt: skip


class _ChunkFrames:
    """Frames of where the chunks of a dataset lie, by their numbers in C order; ``end`` is that of the file."""

    def __init__(self, dataset: Any, end: int) -> None:
        self._steps, self._end = np.array(dataset.chunks, np.int64), end
        self._counts = [-(-length // n) for length, n in zip(dataset.shape, dataset.chunks, strict=True)]
        self._held, self._n_held, self._total = list[Any](), 0, 0

    def add(self, entries: Any) -> None:
        """Add chunks, with the fields size, skipped, at and child."""
        self._held.append(entries)
        self._n_held += len(entries)
        if self._n_held >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Send what was added."""
        if not self._n_held:
            return
        entries = np.concatenate(self._held)
        self._total += len(entries)
        self._held, self._n_held = [], 0
        coordinates = entries["at"][:, :-1].astype(np.int64) // self._steps
        if (coordinates < 0).any() or (coordinates >= self._counts).any() or self._total > self._end:
            raise RefusalError("lists chunks outside its shape: it is damaged, write it again")
        numbers = np.ravel_multi_index(tuple(coordinates.T), self._counts)
        offsets, sizes = entries["child"].astype(np.int64), entries["size"].astype(np.int64)
        if (offsets < 0).any() or (offsets > self._end - sizes).any():
            raise RefusalError("has chunks behind the end of the file: it is cut or damaged, copy or write it again")
        send(b"I", np.array([numbers, offsets, sizes, entries["skipped"].astype(np.int64)]).tobytes())


def send_chunks(dataset: Any, read: Read, end: int) -> None:
    """Send where the chunks of a dataset lie."""
    frames = _ChunkFrames(dataset, end)
    address = tree_address(dataset, read)
    if address is not None:
        for entries in chunks_in_tree(read, address, dataset.chunks):
            frames.add(entries)
        return frames.flush()
    before = dataset.file.userblock_size if h5py.version.hdf5_version_tuple < _COUNTS_USER_BLOCK else 0
    entry = np.dtype([("size", "<u8"), ("skipped", "<u8"), ("at", "<u8", (dataset.ndim + 1,)), ("child", "<u8")])
    held: list[Any] = []

    def take(one: Any) -> None:
        held.append((one.size, one.filter_mask, (*one.chunk_offset, 0), one.byte_offset + before))
        if len(held) == BATCH:
            frames.add(np.array(held, entry))
            held.clear()

    dataset.id.chunk_iter(take)
    frames.add(np.array(held, entry))
    return frames.flush()


def _names(dataset: Any, n_more: int) -> list[str | None] | None:
    """Return the names of the axes, by their labels or scales; None where none has one."""
    names: list[str | None] = []
    for axis in dataset.dims:
        name = None
        with suppress(*ERRORS):
            name = axis.label or (axis[0].name.rpartition("/")[2] if len(axis) else None)
        names.append(name or None)
    return [*names, *[None] * n_more] if any(names) else None


def _groups(file: Any, path: str) -> list[Any]:
    """Return paths and attributes of the groups above an object, the nearest first."""
    above, found = path, list[Any]()
    while above:
        above = above.rpartition("/")[0]
        found.append([above, attributes_of(file["/" + above])])
    return found


def _beside(file: Any, path: str) -> dict[str, Any]:
    """Return shapes and types of datasets of numbers in the groups above an object, by their paths."""
    found: dict[str, Any] = {}
    for above, _ in _groups(file, path):
        group = file["/" + above]
        for name in islice(group, _MOST_BESIDE):
            inside = f"{above}/{name}" if above else name
            if inside == path or not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            try:
                one = group[name]
                if isinstance(one, h5py.Dataset) and one.shape and 0 not in one.shape:
                    dtype, lengths, _ = number_type(one)
                    found[inside] = [[*one.shape, *lengths], dtype]
            except (RefusalError, *ERRORS):
                continue
    return found


def _received() -> bytes:
    """Return the next answer or question; end the process with its parent, or when it asks nothing for long."""
    if not select.select([0], [], [], IDLE_SECONDS)[0]:
        raise SystemExit
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    header = sys.stdin.buffer.read(8)
    if len(header) < 8:
        raise SystemExit
    return sys.stdin.buffer.read(struct.unpack("<q", header)[0])


def _answer(question: dict[str, Any]) -> None:
    """Send what a file holds at a path: a description and the places of the chunks, or a refusal."""
    try:
        location = question["file"]
        opened: Any = _AskedFile(question["n_bytes"]) if location is None else location
        with (
            _reader(opened) as read,
            h5py.File(opened, "r", **({} if location is None else {"locking": False})) as file,
        ):
            end = end_of_file(file, read, question["n_bytes"])
            description, dataset = describe(file, question["path"])
            send(b"D", json.dumps(description | {"end": end}).encode())
            if description["chunks"]:
                send_chunks(dataset, read, end)
        send(b"E", b"{}")
    except AbsentError as error:
        send(b"E", json.dumps({"absent": str(error)}).encode())
    except RefusalError as error:
        send(b"E", json.dumps({"refused": str(error)}).encode())
    except (*ERRORS, RecursionError) as error:
        send(b"E", json.dumps({"damaged": f"{error or type(error).__name__}"}).encode())


@contextmanager
def _reader(opened: Any) -> Iterator[Read]:
    """Give a function that reads bytes of a file, which is asked for or lies at a path."""
    if not isinstance(opened, str):
        yield lambda offset, n_bytes: opened.read(n_bytes) if opened.seek(offset) >= 0 else b""
        return
    descriptor = os.open(opened, os.O_RDONLY)
    try:
        yield lambda offset, n_bytes: os.pread(descriptor, n_bytes, offset)
    finally:
        os.close(descriptor)


def _limit() -> None:
    """Limit memory to what is taken now and some more, and let a crash leave no file."""
    taken = 2**31
    try:
        with open("/proc/self/statm", encoding="ascii") as status:
            taken = int(status.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def main() -> None:
    """Answer until the parent ends, or asks nothing for long."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit()
    while True:
        _answer(json.loads(_received()))
