"""Formats in which rows are stored: how the field's own libraries write and read each of them.

Tests hold the package to the numbers that were written, and benchmarks to the speed and the refusals of these readers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

Rows = np.ndarray[Any, Any]
NAME = "rows"  # of the array, the dataset, the tensor or the column
_GROUP_ROWS, _CHUNK_ROWS = 8_192, 1_024  # rows of row groups and record batches, and of chunks, at most


@dataclass(frozen=True)
class StoredFormat:
    """Format of files of rows.

    Attributes
    ----------
    ending
        Ending of names.
    write, read
        Functions of the field's own library: ``write(path, rows)``, and ``read(path)``, which returns the rows.
    dtype
        Number type of the rows that are written.
    inside
        Name of the array in the file, where it may hold several.
    options
        Options of ``open_source`` that a file needs, from the rows.
    needs
        Libraries that write and read it.
    """

    ending: str
    write: Callable[[Path, Rows], object]
    read: Callable[[Path], Rows]
    dtype: str = "float16"
    inside: str = ""
    options: Callable[[Rows], Mapping[str, Any]] = field(default=lambda rows: {})
    needs: tuple[str, ...] = ()

    @property
    def lacking(self) -> str:
        """Names of the libraries that are not installed, "" if all are."""
        return ", ".join(name for name in self.needs if find_spec(name) is None)

    def address(self, location: Path | str) -> str:
        """Return the argument of ``open_source`` for a file, a pattern or a URL."""
        return f"{location}::{self.inside}" if self.inside else str(location)


def _write_npz(path: Path, rows: Rows) -> None:
    np.savez(path, **{NAME: rows})


def _write_deflated(path: Path, rows: Rows) -> None:
    np.savez_compressed(path, **{NAME: rows})


def _read_npz(path: Path) -> Rows:
    with np.load(path) as members:
        found: Rows = members[NAME]
    return found


def _write_bin(path: Path, rows: Rows) -> None:
    """Write number of rows and width as uint32, then the rows, as the big-ann benchmarks do."""
    path.write_bytes(np.array(rows.shape, "<u4").tobytes() + rows.tobytes())


def _read_bin(dtype: str) -> Callable[[Path], Rows]:
    def read(path: Path) -> Rows:
        n_rows, width = (int(number) for number in np.fromfile(path, "<u4", 2))
        return np.fromfile(path, dtype, offset=8).reshape(n_rows, width)

    return read


def _write_vecs(path: Path, rows: Rows) -> None:
    """Write before each row its width as int32, as the TEXMEX corpora do."""
    widths = np.full((len(rows), 1), rows.shape[1], "<i4").view(np.uint8)
    np.hstack([widths, np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)]).tofile(path)


def _read_vecs(dtype: str) -> Callable[[Path], Rows]:
    def read(path: Path) -> Rows:
        held = np.fromfile(path, np.uint8)
        width = int(held[:4].view("<i4")[0])
        whole = held.reshape(-1, 4 + width * np.dtype(dtype).itemsize)
        if not (np.ascontiguousarray(whole[:, :4]).view("<i4") == width).all():
            raise ValueError("widths differ")
        return np.ascontiguousarray(whole[:, 4:]).view(dtype)

    return read


def _write_faiss(path: Path, rows: Rows) -> None:
    import faiss

    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)
    faiss.write_index(index, str(path))


def _read_faiss(path: Path) -> Rows:
    import faiss

    index = faiss.read_index(str(path))
    found: Rows = index.reconstruct_n(0, index.ntotal)
    return found


def _write_safetensors(path: Path, rows: Rows) -> None:
    from safetensors.numpy import save_file

    save_file({NAME: rows}, path)


def _read_safetensors(path: Path) -> Rows:
    from safetensors.numpy import load_file

    found: Rows = load_file(path)[NAME]
    return found


def _write_torch(path: Path, rows: Rows) -> None:
    import torch

    torch.save({NAME: torch.from_numpy(rows)}, path)


def _read_torch(path: Path) -> Rows:
    import torch

    found: Rows = torch.load(path, weights_only=True, mmap=True)[NAME].numpy()
    return found


def _several(rows: Rows) -> int:
    """Return the rows of a row group: a file has several."""
    return min(_GROUP_ROWS, -(-len(rows) // 3))


def _table(rows: Rows, is_fixed: bool) -> Any:
    """Return a table of one list column whose values are the rows'."""
    import pyarrow

    values = pyarrow.array(rows.reshape(-1))
    if is_fixed:
        column = pyarrow.FixedSizeListArray.from_arrays(values, rows.shape[1])
    else:
        offsets = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(rows.shape[1])
        column = pyarrow.ListArray.from_arrays(offsets, values)
    return pyarrow.table({"id": pyarrow.array(np.arange(len(rows))), NAME: column})


def _of_column(column: Any) -> Rows:
    column = column.combine_chunks()
    if column.null_count or column.flatten().null_count:
        raise ValueError("there are nulls")
    found: Rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return found


def _write_parquet(path: Path, rows: Rows) -> None:
    from pyarrow import parquet

    parquet.write_table(_table(rows, is_fixed=False), path, row_group_size=_several(rows))


def _write_fixed_parquet(path: Path, rows: Rows) -> None:
    from pyarrow import parquet

    parquet.write_table(_table(rows, is_fixed=True), path, row_group_size=_several(rows), compression="none")


def _read_parquet(path: Path) -> Rows:
    from pyarrow import parquet

    return _of_column(parquet.read_table(path, columns=[NAME])[NAME])


def _write_arrow_file(path: Path, rows: Rows) -> None:
    from pyarrow import ipc

    table = _table(rows, is_fixed=True)
    with ipc.new_file(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=_several(rows))


def _read_arrow_file(path: Path) -> Rows:
    import pyarrow
    from pyarrow import ipc

    with pyarrow.memory_map(str(path)) as mapped:
        return _of_column(ipc.open_file(mapped, options=_of_one_column(ipc)).read_all()[NAME])


def _of_one_column(ipc: Any) -> Any:
    return ipc.IpcReadOptions(included_fields=[1])


def _write_arrow_stream(path: Path, rows: Rows) -> None:
    from pyarrow import ipc

    table = _table(rows, is_fixed=False)
    with ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table, max_chunksize=_several(rows))


def _read_arrow_stream(path: Path) -> Rows:
    import pyarrow
    from pyarrow import ipc

    with pyarrow.memory_map(str(path)) as mapped:
        return _of_column(ipc.open_stream(mapped, options=_of_one_column(ipc)).read_all()[NAME])


def _write_feather(path: Path, rows: Rows) -> None:
    from pyarrow import feather

    feather.write_feather(_table(rows, is_fixed=False), str(path), compression="zstd", chunksize=_several(rows))


def _read_feather(path: Path) -> Rows:
    from pyarrow import feather

    return _of_column(feather.read_table(str(path), columns=[NAME], memory_map=False)[NAME])


def _write_hdf5(**settings: Any) -> Callable[[Path, Rows], None]:
    """Return a function that writes a dataset; ``chunk_rows`` are the rows of a chunk."""

    def write(path: Path, rows: Rows) -> None:
        import h5py

        given = dict(settings)
        if "chunk_rows" in given:
            given["chunks"] = (min(-(-len(rows) // 3), given.pop("chunk_rows")), rows.shape[1])
        with h5py.File(path, "w") as file:
            file.create_dataset(NAME, data=rows, **given)

    return write


def _read_hdf5(path: Path) -> Rows:
    import h5py

    with h5py.File(path, "r") as file:
        found: Rows = file[NAME][:]
    return found


def _raw_options(rows: Rows) -> dict[str, Any]:
    return {"dtype": rows.dtype.name, "width": rows.shape[1]}


def _read_raw(path: Path) -> Rows:
    return np.fromfile(path, "<f2").reshape(-1, RAW_WIDTH)


RAW_WIDTH = 16  # of the files of raw numbers that `STORED_FORMATS` reads
_ARROW: dict[str, Any] = {"inside": NAME, "needs": ("pyarrow",)}
_HDF5: dict[str, Any] = {"inside": NAME, "needs": ("h5py",), "read": _read_hdf5}

STORED_FORMATS: dict[str, StoredFormat] = {
    "npy": StoredFormat(".npy", np.save, np.load),
    "npz": StoredFormat(".npz", _write_npz, _read_npz, inside=NAME),
    "npz, deflated": StoredFormat(".npz", _write_deflated, _read_npz, inside=NAME),
    "fbin": StoredFormat(".fbin", _write_bin, _read_bin("<f4"), "float32"),
    "hbin": StoredFormat(".hbin", _write_bin, _read_bin("<f2")),
    "u8bin": StoredFormat(".u8bin", _write_bin, _read_bin("u1"), "uint8"),
    "i8bin": StoredFormat(".i8bin", _write_bin, _read_bin("i1"), "int8"),
    "fvecs": StoredFormat(".fvecs", _write_vecs, _read_vecs("<f4"), "float32"),
    "bvecs": StoredFormat(".bvecs", _write_vecs, _read_vecs("u1"), "uint8"),
    "raw": StoredFormat(".bin", lambda path, rows: rows.tofile(path), _read_raw, options=_raw_options),
    "faiss": StoredFormat(".faiss", _write_faiss, _read_faiss, "float32", needs=("faiss",)),
    "safetensors": StoredFormat(
        ".safetensors", _write_safetensors, _read_safetensors, inside=NAME, needs=("safetensors",)
    ),
    "torch": StoredFormat(".pt", _write_torch, _read_torch, inside=NAME, needs=("torch",)),
    "parquet": StoredFormat(".parquet", _write_parquet, _read_parquet, "float32", **_ARROW),
    "parquet, fixed size": StoredFormat(".parquet", _write_fixed_parquet, _read_parquet, **_ARROW),
    "arrow file": StoredFormat(".arrow", _write_arrow_file, _read_arrow_file, **_ARROW),
    "arrow stream": StoredFormat(".arrow", _write_arrow_stream, _read_arrow_stream, **_ARROW),
    "feather": StoredFormat(".feather", _write_feather, _read_feather, "float32", **_ARROW),
    "hdf5": StoredFormat(".h5", _write_hdf5(), **_HDF5),
    "hdf5, gzip": StoredFormat(
        ".h5", _write_hdf5(chunk_rows=_CHUNK_ROWS, compression="gzip", shuffle=True, fletcher32=True), **_HDF5
    ),
    "hdf5, rows": StoredFormat(".h5", _write_hdf5(chunk_rows=1), **_HDF5),
}


def rows_for(stored: StoredFormat, rows: Rows) -> Rows:
    """Return rows in the number type of a format: for 8-bit integers rounded, so that they fill their range."""
    dtype = np.dtype(stored.dtype)
    if dtype.kind == "f":
        return rows.astype(dtype)
    limits = np.iinfo(dtype)
    scale = 100 / float(np.abs(rows).max())
    middle = (limits.max + limits.min + 1) // 2
    return (np.round(rows.astype(np.float64) * scale) + middle).clip(limits.min, limits.max).astype(dtype)
