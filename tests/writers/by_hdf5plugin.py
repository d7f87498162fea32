"""Datasets that the filters of hdf5plugin pack."""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import CorruptChunkError
from tests.writers.frame import CHUNK, N_FEATURES, check, rows_of

FILTERS = {
    "bitshuffle": hdf5plugin.Bitshuffle(),
    "bitshuffle with lz4": hdf5plugin.Bitshuffle(cname="lz4"),
    "bitshuffle with zstd": hdf5plugin.Bitshuffle(cname="zstd"),
    "blosc": hdf5plugin.Blosc(cname="zstd"),
    "blosc2": hdf5plugin.Blosc2(),
    "bzip2": hdf5plugin.BZip2(),
    "lz4": hdf5plugin.LZ4(),
    "zfp": hdf5plugin.Zfp(reversible=True),
    "zstd": hdf5plugin.Zstd(),
}


def write(path: Path, rows: np.ndarray, **settings: object) -> str:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=rows, chunks=(CHUNK, N_FEATURES), **settings)
    return f"{path}::x"


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("name", FILTERS)
def test_rows_are_read_to_the_same_bits(tmp_path: Path, name: str, shuffle: bool) -> None:
    rows = rows_of()
    settings = dict(FILTERS[name]) | ({"shuffle": True} if shuffle and name != "zfp" else {})
    check(write(tmp_path / "x.h5", rows, **settings), rows)


@pytest.mark.parametrize("scale", [0, 3])
def test_integers_in_few_bits_are_read_as_h5py_reads_them(tmp_path: Path, scale: int) -> None:
    rows = rows_of(np.int32) if scale == 0 else rows_of()
    address = write(tmp_path / "x.h5", rows, scaleoffset=scale)
    with h5py.File(tmp_path / "x.h5") as file:
        check(address, file["x"][:])


@pytest.mark.parametrize("name", ["bitshuffle with lz4", "lz4"])
def test_a_size_that_lies_is_refused_before_memory_is_taken(tmp_path: Path, name: str) -> None:
    address = write(tmp_path / "x.h5", rows_of(), **FILTERS[name])
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        _, content = file["x"].id.read_direct_chunk((CHUNK, 0))
        file["x"].id.write_direct_chunk((CHUNK, 0), (2**40).to_bytes(8, "big") + content[8:])
    with pytest.raises(CorruptChunkError, match=r"rows 100-200.* 1,099,511,627,776 bytes"):
        rs.open_source(address).read(0, 600)
