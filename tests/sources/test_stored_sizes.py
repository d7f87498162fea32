"""Stored sizes of chunks: of files, shards, stores and dumps of several arrays, found without a request."""

from __future__ import annotations

from itertools import pairwise

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.storage import FsspecStore, MemoryStore

import rankme_stream as rs
from rankme_stream.sources.stored_sizes import stored_sizes
from tests.dumps import rows_like

ROWS = rows_like(1000, 16)
ODD = slice(320, 384)


@pytest.fixture(scope="module")
def rows():
    found = ROWS.copy()
    found[ODD] = 1.0
    return found


def write(path, rows, **layout):
    options = {"chunks": (64, 16)} | layout
    zarr.create_array(path, data=rows, overwrite=True, **options)
    return path


def the_odd_one(sizes):
    known = np.flatnonzero(sizes.n_bytes)
    place = known[np.argmin(sizes.n_bytes[known])]
    return tuple(sizes.edges[place : place + 2].tolist())


@pytest.mark.parametrize(
    "layout",
    [{}, {"chunks": (64, 4)}, {"shards": (256, 16)}, {"shards": (128, 16), "chunks": (64, 8)}],
    ids=str,
)
def test_a_chunk_of_one_number_is_stored_in_a_small_size(tmp_path, rows, layout):
    source = rs.open_source(write(tmp_path / "x.zarr", rows, **layout))
    (sizes,) = stored_sizes(source, 0, 1000)
    assert sizes.edges.tolist() == [0, *source.bounds(0, 1000), 1000]
    assert the_odd_one(sizes) == (ODD.start, ODD.stop)
    assert sizes.n_bytes[-1] == 0  # a chunk that reaches past the array holds other rows than its own
    (part,) = stored_sizes(source, 100, 500)
    assert part.edges.tolist() == [100, 128, 192, 256, 320, 384, 448, 500]
    assert (part.n_bytes[[0, -1]] == 0).all()
    assert (part.n_bytes[1:-1] == sizes.n_bytes[2:7]).all()


def test_the_sizes_are_those_of_the_files(tmp_path, rows):
    path = write(tmp_path / "x.zarr", rows, chunks=(64, 8))
    (sizes,) = stored_sizes(rs.open_source(path), 0, 960)
    files = [sum((path / "c" / str(i) / str(j)).stat().st_size for j in range(2)) for i in range(15)]
    assert sizes.n_bytes.tolist() == files


def test_uncompressed_chunks_and_arrays_in_memory_have_none(tmp_path, rows):
    for source in (write(tmp_path / "x.zarr", rows, compressors=None), rows, zarr.array(rows, store=MemoryStore())):
        opened = rs.open_source(source)
        opened.fingerprint(0, 1000)
        assert not any(sizes.n_bytes.any() for sizes in stored_sizes(opened, 0, 1000))


def test_a_missing_chunk_has_no_size(tmp_path, rows):
    path = write(tmp_path / "x.zarr", rows)
    (path / "c" / "3" / "0").unlink()
    (sizes,) = stored_sizes(rs.open_source(path), 0, 1000)
    assert np.flatnonzero(sizes.n_bytes == 0).tolist() == [3, 15]


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_a_server_says_the_sizes_with_the_fingerprint_and_is_not_asked_again(tmp_path, rows):
    write(tmp_path / "x.zarr", rows)
    files = AsyncFileSystemWrapper(fsspec.filesystem("file"))
    source = rs.open_source(zarr.open_array(FsspecStore(files, path=str(tmp_path / "x.zarr"), read_only=True)))
    source.fingerprint(64, 704)
    files._info = files._find = files._cat_file = None
    (sizes,) = stored_sizes(source, 0, 1000)
    assert [bool(one) for one in sizes.n_bytes] == [64 <= row < 704 for row in sizes.edges[:-1]]
    assert the_odd_one(sizes) == (ODD.start, ODD.stop)


def test_arrays_of_a_dump_are_told_apart(tmp_path, rows):
    names = [write(tmp_path / "a.zarr", rows), write(tmp_path / "b.zarr", ROWS, chunks=(100, 16))]
    first, second = stored_sizes(rs.open_source(names), 64, 1950)
    assert (first.edges[0], first.edges[-1], second.edges[0], second.edges[-1]) == (64, 1000, 1000, 1950)
    assert the_odd_one(first) == (ODD.start, ODD.stop)
    assert {stop - start for start, stop in pairwise(second.edges.tolist())} == {100, 50}
