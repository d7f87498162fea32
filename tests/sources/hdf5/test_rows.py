"""Rows of HDF5 datasets are those that h5py reads, whatever their layout, type and filters."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

import rankme_stream as rs
from benchmarks.resilience.object_server import ObjectServer
from rankme_stream.errors import (
    CorruptChunkError,
    SourceFormatError,
    SourceNotFoundError,
    StorageError,
    UsageError,
)
from rankme_stream.sources import Source, open_source
from rankme_stream.sources.stores.attempts import SECONDS
from rankme_stream.testing import SourceLaws

ROWS = np.random.default_rng(8).standard_normal((203, 12)).astype(np.float32)
RANGES = ((0, 203), (0, 1), (202, 203), (17, 18), (5, 190), (100, 101))


def write(path: Path, name: str = "x", rows: np.ndarray = ROWS, libver: str = "earliest", **settings: object) -> str:
    with h5py.File(path, "a", libver=libver) as file:
        file.create_dataset(name, data=rows, **settings)
    return f"{path}::{name}"


def check(address: str, rows: np.ndarray = ROWS, **options: object) -> Source:
    source = open_source(address, **options)
    for start, stop in RANGES:
        np.testing.assert_array_equal(source.read(start, stop), rows[start:stop])
    return source


class TestHdf5Source(SourceLaws):
    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        self.address = write(tmp_path / "rows.h5", chunks=(5, 4), compression="gzip")

    def make(self) -> Source:
        return open_source(self.address)

    def expected(self) -> np.ndarray:
        return ROWS


LAYOUTS = {
    "one block": {},
    "a row a chunk": {"chunks": (1, 12)},
    "rows": {"chunks": (7, 12)},
    "tiles": {"chunks": (50, 5)},
    "one chunk": {"chunks": (203, 12)},
    "may grow": {"chunks": (10, 12), "maxshape": (None, 12)},
    "may grow both ways": {"chunks": (10, 5), "maxshape": (None, None)},
    "gzip": {"chunks": (1, 12), "compression": "gzip"},
    "shuffle": {"chunks": (3, 12), "shuffle": True},
    "gzip of shuffled rows": {"chunks": (3, 12), "compression": "gzip", "shuffle": True},
    "with checksums": {"chunks": (3, 12), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"chunks": (3, 12), "compression": "lzf", "shuffle": True},
    "szip": {"chunks": (8, 12), "compression": "szip"},
}


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_every_layout_are_those_that_were_written(tmp_path: Path, layout: str, libver: str) -> None:
    check(write(tmp_path / "x.h5", libver=libver, **LAYOUTS[layout]))


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "i1", ">i2", "u1", "<u4", "i8"])
@pytest.mark.parametrize("layout", ["one block", "a row a chunk", "gzip of shuffled rows"])
def test_numbers_of_every_type_are_read(tmp_path: Path, dtype: str, layout: str) -> None:
    rows = np.random.default_rng(1).integers(0, 100, ROWS.shape).astype(dtype)
    source = check(write(tmp_path / "x.h5", rows=rows, **LAYOUTS[layout]), rows)
    assert source.stored.dtype == np.dtype(dtype).newbyteorder("=")


def test_chunks_that_a_filter_could_not_shorten_are_read_as_they_are(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[::3] = 1.0  # deflated to less, the others to more
    address = write(tmp_path / "x.h5", rows=rows, chunks=(1, 12), compression="gzip")
    found = []
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        raw = file["x"].id
        for row in range(1, 203, 3):
            raw.write_direct_chunk((row, 0), rows[row].tobytes(), filter_mask=1)
        raw.chunk_iter(lambda chunk: found.append(chunk.filter_mask))
    assert sorted(set(found)) == [0, 1]
    check(address, rows)


@pytest.mark.parametrize("settings", [{}, {"compression": "gzip"}])
@pytest.mark.parametrize("n_bytes", [200, 2**20])
def test_chunks_that_lie_among_others_are_read(
    tmp_path: Path, settings: dict[str, str], n_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankme_stream.sources.hdf5.stored_chunks._SPAN", n_bytes)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        x, y = (file.create_dataset(name, ROWS.shape, "f4", chunks=(3, 12), **settings) for name in "xy")
        for row in [*range(99, 203, 3), *range(0, 99, 3)]:
            x[row : row + 3] = ROWS[row : row + 3]
            y[row : row + 3] = -ROWS[row : row + 3]
    check(f"{tmp_path}/x.h5::x")
    check(f"{tmp_path}/x.h5::y", -ROWS)


@pytest.mark.parametrize("chunks", [None, (12, 60), (4, 203), (1, 203)])
def test_features_that_come_first_are_taken_by_their_axis(tmp_path: Path, chunks: tuple[int, ...] | None) -> None:
    check(write(tmp_path / "x.h5", rows=np.ascontiguousarray(ROWS.T), chunks=chunks), features_axis=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("chunks", [None, (3, 4, 2)])
def test_axes_other_than_the_features_are_flattened(tmp_path: Path, chunks: tuple[int, ...] | None, axis: int) -> None:
    cube = np.random.default_rng(2).standard_normal((9, 10, 11))
    address = write(tmp_path / "x.h5", rows=cube, chunks=chunks)
    with pytest.raises(SourceFormatError, match="say which of them is the features"):
        open_source(address)
    source = open_source(address, features_axis=axis)
    rows = source.read(0, source.shape[0])
    flat = np.moveaxis(cube, axis, -1)
    places = source.coordinates(0, source.shape[0])
    np.testing.assert_array_equal(rows, flat[tuple(places.T)])
    assert len(np.unique(places, axis=0)) == cube.size // cube.shape[axis]


def test_parts_of_a_large_block_are_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankme_stream.sources.hdf5.rows._PART_BYTES", 100)
    check(write(tmp_path / "x.h5"))
    check(write(tmp_path / "x.h5", "t", np.ascontiguousarray(ROWS.T)), features_axis=0)


def test_records_of_numbers_are_rows(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (203,), np.dtype(("<f4", (12,))), chunks=(16,), compression="gzip")[...] = ROWS
    check(f"{tmp_path}/x.h5")


def test_a_file_behind_a_user_block_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=512) as file:
        file["x"], file["y"] = ROWS, 1
        file.create_dataset("c", data=ROWS, chunks=(10, 12))
    check(f"{tmp_path}/x.h5::x")
    check(f"{tmp_path}/x.h5::c")


def test_bfloat16_is_known_by_its_bits(tmp_path: Path) -> None:
    bits = (ROWS.view(np.uint32) >> 16).astype(np.uint16)
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    kind.set_precision(16)
    kind.set_size(2)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple(bits.shape))
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, bits, kind)
    assert check(f"{tmp_path}/x.h5", bits).stored.name == "bfloat16"


def test_threads_read_at_once(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "x.h5", chunks=(1, 12), compression="lzf"))
    found: list[bool] = []

    def read() -> None:
        found.extend(np.array_equal(source.read(a, a + 50), ROWS[a : a + 50]) for a in range(150))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found) and len(found) == 600


def test_chunks_that_were_never_written_are_missing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", ROWS.shape, "f4", chunks=(10, 12), fillvalue=7.0)
        dataset[:50], dataset[60:] = ROWS[:50], ROWS[60:]
    source = open_source(f"{tmp_path}/x.h5")
    before = source.fingerprint(0, 203)
    assert source.missing(0, 203) == [(50, 60)]
    assert source.chunks_missing == 1
    assert (source.read(45, 65)[5:15] == 7.0).all()
    with pytest.raises(rs.RankMeError, match="is missing"):
        rs.measure(f"{tmp_path}/x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["x"][50:60] = ROWS[50:60]
    again = open_source(f"{tmp_path}/x.h5")
    assert again.fingerprint(0, 203) != before != source.fingerprint(0, 203)
    assert again.missing(0, 203) == []


def test_a_block_that_was_never_written_is_missing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", ROWS.shape, "f4")
    source = open_source(f"{tmp_path}/x.h5")
    source.fingerprint(0, 203)
    assert source.missing(0, 203) == [(0, 203)]


def test_attributes_of_cf_decode_the_numbers(tmp_path: Path) -> None:
    codes = np.random.default_rng(1).integers(-100, 100, ROWS.shape).astype("<i2")
    codes[3] = -999
    path = tmp_path / "x.nc"
    write(path, rows=codes, chunks=(10, 12))
    with h5py.File(path, "r+") as file:
        file["x"].attrs["scale_factor"] = np.float64(0.25)
        file["x"].attrs["add_offset"] = np.array([1.5])
        file["x"].attrs["_FillValue"] = np.array([-999], "<i2")
        file["x"].attrs["units"] = "m"
    values = codes * 0.25 + 1.5
    measured = rs.measure(str(path), nonfinite="skip")
    wanted = rs.measure(np.delete(values, 3, axis=0))
    assert measured.rankme.value == wanted.rankme.value
    assert measured.audit.rows_nonfinite == 1


def test_names_of_dimensions_say_which_axis_is_the_features(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.nc", "w") as file:
        dataset = file.create_dataset("x", data=ROWS.T)
        file["embedding"], file["sample"] = np.arange(12), np.arange(203)
        for axis, name in enumerate(("embedding", "sample")):
            file[name].make_scale(name)
            dataset.dims[axis].attach_scale(file[name])
    with pytest.raises(SourceFormatError, match="whose names say that the features come first"):
        open_source(f"{tmp_path}/x.nc")
    check(f"{tmp_path}/x.nc", features_axis="embedding")


def test_an_array_of_the_file_scales_the_rows(tmp_path: Path) -> None:
    codes = np.random.default_rng(1).integers(-100, 100, ROWS.shape).astype("i1")
    scales = np.linspace(0.5, 2.0, 203, dtype=np.float32)
    address = write(tmp_path / "x.h5", "codes", codes, chunks=(10, 12))
    write(tmp_path / "x.h5", "scales", scales)
    with pytest.raises(SourceFormatError, match="beside the array 'scales'"):
        open_source(address)
    source = open_source(address, scales="scales")
    np.testing.assert_array_equal(source.read(0, 203), codes.astype(float) * scales[:, None].astype(float))
    assert open_source(source.reopen()).fingerprint(0, 203) == source.fingerprint(0, 203)


def test_the_only_dataset_that_fits_is_taken_and_several_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write(path, "group/inner/rows")
    write(path, "group/labels", np.arange(203))
    assert check(str(path)).uri == f"{path}::group/inner/rows"
    write(path, "other")
    with pytest.raises(SourceFormatError, match=r"h5 holds .*other \(203, 12\) float32.*group/inner/rows"):
        open_source(str(path))
    with pytest.raises(SourceFormatError, match=r"::group is a group; 'group' of it holds group/inner/rows"):
        open_source(f"{path}::group")
    with pytest.raises(SourceNotFoundError, match="nothing lies there; it holds other"):
        open_source(f"{path}::absent/rows")
    with pytest.raises(UsageError, match="leave it out"):
        open_source(f"{path}::other", width=12)


def test_a_file_on_a_server_has_the_bits_of_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECONDS, "0.4")
    for name in ("one block", "a row a chunk", "tiles", "gzip of shuffled rows"):
        write(tmp_path / "x.h5", name, **LAYOUTS[name])
    with ObjectServer(tmp_path) as server:
        address = f"{server.url}/x.h5"
        for name in ("one block", "a row a chunk", "tiles", "gzip of shuffled rows"):
            source = check(f"{address}::{name}")
            assert source.reopen() == f"{address}::{name}"
        server.choose = lambda method, path: 503
        with pytest.raises(StorageError, match="503"):
            open_source(f"{address}::tiles")
        server.choose = lambda method, path: None
        check(f"{address}::tiles")


def test_a_file_that_was_cut_while_it_is_read_is_refused(tmp_path: Path) -> None:
    address = write(tmp_path / "x.h5", chunks=(10, 12))
    source = open_source(address)
    os.truncate(tmp_path / "x.h5", (tmp_path / "x.h5").stat().st_size - 2000)
    with pytest.raises(CorruptChunkError, match="ends within"):
        source.read(0, 203)
