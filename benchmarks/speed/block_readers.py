"""How the field's own libraries read rows block by block: into a reused buffer, and in the loop that people write."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.stored_formats import NAME

Rows = np.ndarray[Any, Any]
ReadBlocks = Callable[[Path, Rows, int], None]  # file, buffer of the rows of one block, rows in all
Loop = Callable[[Path, int], Iterator[Rows]]  # file, rows of a block


def _edges(n_rows: int, block: int) -> Iterator[tuple[int, int]]:
    return ((start, min(n_rows, start + block)) for start in range(0, n_rows, block))


def _by_preadv(path: Path, buffer: Rows, n_rows: int) -> None:
    """Read rows that lie in one piece at the end of a file."""
    row_bytes = buffer[0].nbytes
    offset = path.stat().st_size - n_rows * row_bytes
    descriptor = os.open(path, os.O_RDONLY)
    for start, stop in _edges(n_rows, len(buffer)):
        os.preadv(descriptor, [buffer[: stop - start].reshape(-1).view(np.uint8).data], offset + start * row_bytes)
    os.close(descriptor)


def _by_memmap(path: Path, buffer: Rows, n_rows: int) -> None:
    """Read rows that follow the width of each."""
    row_bytes = buffer[0].nbytes
    mapped = np.memmap(path, np.uint8, "r", shape=(n_rows, 4 + row_bytes))
    for start, stop in _edges(n_rows, len(buffer)):
        buffer[: stop - start].view(np.uint8)[...] = mapped[start:stop, 4:]


def _by_zipfile(path: Path, buffer: Rows, n_rows: int) -> None:
    with zipfile.ZipFile(path) as archive, archive.open(f"{NAME}.npy") as member:
        np.lib.format.read_magic(member)
        np.lib.format.read_array_header_1_0(member)
        for start, stop in _edges(n_rows, len(buffer)):
            left = buffer[: stop - start].reshape(-1).view(np.uint8).data
            while len(left):
                left = left[member.readinto(left) :]


def _by_faiss(path: Path, buffer: Rows, n_rows: int) -> None:
    import faiss

    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    for start, stop in _edges(n_rows, len(buffer)):
        index.reconstruct_n(start, stop - start, buffer[: stop - start])


def _by_safetensors(path: Path, buffer: Rows, n_rows: int) -> None:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        tensor = file.get_slice(NAME)
        for start, stop in _edges(n_rows, len(buffer)):
            buffer[: stop - start] = tensor[start:stop]


def _by_torch(path: Path, buffer: Rows, n_rows: int) -> None:
    import torch

    tensor, target = torch.load(path, weights_only=True, mmap=True)[NAME], torch.from_numpy(buffer)
    for start, stop in _edges(n_rows, len(buffer)):
        target[: stop - start].copy_(tensor[start:stop])


def _by_parquet(path: Path, buffer: Rows, n_rows: int) -> None:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(len(buffer), columns=[NAME]):
            _take(batch.column(0), buffer)


def _by_arrow_file(path: Path, buffer: Rows, n_rows: int) -> None:
    import pyarrow

    with pyarrow.memory_map(str(path)) as mapped:
        file = pyarrow.ipc.open_file(mapped)
        for number in range(file.num_record_batches):
            _take(file.get_batch(number).column(NAME), buffer)


def _by_arrow_stream(path: Path, buffer: Rows, n_rows: int) -> None:
    import pyarrow

    with pyarrow.memory_map(str(path)) as mapped:
        for batch in pyarrow.ipc.open_stream(mapped):
            _take(batch.column(NAME), buffer)


def _take(lists: Any, buffer: Rows) -> None:
    values = lists.flatten().to_numpy(zero_copy_only=False)
    buffer[: len(lists)] = values.reshape(len(lists), -1)


def _by_h5py(path: Path, buffer: Rows, n_rows: int) -> None:
    import h5py

    with h5py.File(path, "r") as file:
        for start, stop in _edges(n_rows, len(buffer)):
            file[NAME].read_direct(buffer, np.s_[start:stop], np.s_[: stop - start])


def _npy_loop(path: Path, block: int) -> Iterator[Rows]:
    rows = np.load(path, mmap_mode="r")
    yield from (rows[start : start + block] for start in range(0, len(rows), block))


def _parquet_loop(path: Path, block: int) -> Iterator[Rows]:
    """Yield what numpy makes of the lists of a column, as one writes it down first."""
    from pyarrow import parquet

    for batch in parquet.ParquetFile(path).iter_batches(block, columns=[NAME]):
        yield np.array(batch.column(0).to_pylist(), np.float32)


def _stacked_loop(path: Path, block: int) -> Iterator[Rows]:
    """Yield the arrays that Arrow makes of the rows of a column, stacked."""
    from pyarrow import parquet

    for batch in parquet.ParquetFile(path).iter_batches(block, columns=[NAME]):
        yield np.stack(batch.column(0).to_numpy(zero_copy_only=False))


def _h5py_loop(path: Path, block: int) -> Iterator[Rows]:
    import h5py

    with h5py.File(path, "r") as file:
        rows = file[NAME]
        yield from (rows[start : start + block] for start in range(0, len(rows), block))


READERS: dict[str, ReadBlocks] = {
    **dict.fromkeys(("npy", "fbin", "hbin", "u8bin", "i8bin", "raw"), _by_preadv),
    **dict.fromkeys(("fvecs", "bvecs"), _by_memmap),
    **dict.fromkeys(("npz", "npz, deflated"), _by_zipfile),
    "faiss": _by_faiss,
    "safetensors": _by_safetensors,
    "torch": _by_torch,
    **dict.fromkeys(("parquet", "parquet, fixed size"), _by_parquet),
    **dict.fromkeys(("arrow file", "feather"), _by_arrow_file),
    "arrow stream": _by_arrow_stream,
    **dict.fromkeys(("hdf5", "hdf5, gzip", "hdf5, rows"), _by_h5py),
}
LOOPS: dict[str, tuple[tuple[str, Loop], ...]] = {
    "npy": (("np.load, mapped", _npy_loop),),
    **dict.fromkeys(
        ("parquet", "parquet, fixed size"), (("to_pylist", _parquet_loop), ("to_numpy, stacked", _stacked_loop))
    ),
    **dict.fromkeys(("hdf5", "hdf5, gzip", "hdf5, rows"), (("h5py, sliced", _h5py_loop),)),
}
