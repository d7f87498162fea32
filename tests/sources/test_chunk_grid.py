"""Arrays of any rank are read as numpy reads them, with rows in the order in which they are stored."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import rankme_stream as rs
from rankme_stream.errors import CorruptChunkError, MissingChunksError, NonFiniteError, UsageError
from rankme_stream.passes.planning.block_layout import largest_unit
from rankme_stream.sources import Source, ZarrSource, open_source
from rankme_stream.sources.zarr.chunk_reader import ChunkReader
from rankme_stream.sources.zarr.stored_values import StoreValues
from rankme_stream.testing import SourceLaws

FILL = 7


class Layout(NamedTuple):
    """Shape of an array, of what a key holds and of a chunk, and the axis of the features."""

    shape: tuple[int, ...]
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    axis: int


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    inner = [draw(st.integers(1, length + 1)) for length in shape]
    outer = [n * draw(st.integers(1, 3)) for n in inner] if draw(st.booleans()) else inner
    return Layout(tuple(shape), tuple(outer), tuple(inner), draw(st.integers(0, len(shape) - 1)))


def create(
    path: Path, layout: Layout, empty: Sequence[tuple[slice, ...]] = (), **settings: Any
) -> tuple[zarr.Array[Any], np.ndarray]:
    """Write an array of the layout, some chunks of which hold the fill value, so that zarr leaves them out."""
    values = np.random.default_rng(1).integers(10, 10**6, layout.shape).astype(np.float32)
    for chunk in empty:
        values[chunk] = FILL
    array = zarr.create_array(
        path, shape=layout.shape, chunks=layout.inner, shards=layout.outer if layout.outer != layout.inner else None,
        dtype="f4", fill_value=FILL, **settings,
    )  # fmt: skip
    array[...] = values
    return array, values


def parts(shape: tuple[int, ...], chunk: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Return the chunks of a shape in C order, cut to it."""
    starts = (range(0, length, step) for length, step in zip(shape, chunk, strict=True))
    ends = [
        tuple(slice(a, min(a + step, n)) for a, step, n in zip(corner, chunk, shape, strict=True))
        for corner in itertools.product(*starts)
    ]
    return ends


def expected(layout: Layout, values: np.ndarray) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Return the rows in storage order, where units begin, and the places of the rows along their axes."""
    values = np.moveaxis(values, layout.axis, -1)
    outer, inner = (tuple(np.delete(one, layout.axis).tolist()) for one in (layout.outer, layout.inner))
    places = np.stack(np.indices(values.shape[:-1]), axis=-1)
    rows, starts, where = [], [0], []
    for key in parts(values.shape[:-1], outer):
        for unit in parts(values[key].shape[:-1], inner):
            rows.append(values[key][unit].reshape(-1, values.shape[-1]))
            where.append(places[key][unit].reshape(-1, len(outer)))
            starts.append(starts[-1] + len(rows[-1]))
    return np.concatenate(rows), starts[:-1], np.concatenate(where)


def opened(path: Path, layout: Layout, way: str) -> ZarrSource:
    source = open_source(path, features_axis=layout.axis)
    assert isinstance(source, ZarrSource)
    if way == "store":
        source._reader._values = StoreValues(source._store, source._grid.index)
        source._reader.has_loose_rows = False
    return source


@pytest.mark.parametrize("way", ["folder", "store"])
@given(layout=layouts(), data=st.data())
def test_rows_of_any_rank_are_those_of_numpy(
    tmp_path_factory: pytest.TempPathFactory, way: str, layout: Layout, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any rank {way}.zarr"
    shutil.rmtree(path, ignore_errors=True)
    settings = data.draw(st.sampled_from([{}, {"compressors": None}, {"order": "F", "zarr_format": 2}]))
    layout = layout._replace(outer=layout.inner) if "zarr_format" in settings else layout
    chunks = parts(layout.shape, layout.inner)
    empty = data.draw(st.lists(st.sampled_from(range(len(chunks))), unique=True, max_size=len(chunks)))
    _, values = create(path, layout, [chunks[i] for i in empty], **settings)
    rows, starts, where = expected(layout, values)
    is_missing = (rows == FILL).any(axis=1)
    source = opened(path, layout, way)
    n = len(rows)
    assert source.shape == rows.shape
    np.testing.assert_array_equal(source.coordinates(0, n), where)
    if not source._reader.has_loose_rows:
        assert [0, *source.bounds(0, n)] == starts
        assert max(np.diff([*starts, n])) <= getattr(source.bounds(0, n), "step", n)
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    np.testing.assert_array_equal(source.read(start, stop), rows[start:stop])
    np.testing.assert_array_equal(source.coordinates(start, stop), where[start:stop])
    for again in (source, opened(path, layout, way)):
        again.fingerprint(0, n)
        again.read(0, n)
        found = np.zeros(n, bool)
        for first, last in again.missing(0, n):
            found[first:last] = True
        np.testing.assert_array_equal(found, is_missing)
        assert again.missing(start, stop) == _runs(is_missing, start, stop)
        assert again.chunks_missing == len(empty)


def _runs(mask: np.ndarray, start: int, stop: int) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff([False, *mask[start:stop], False]))
    return [(start + int(a), start + int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


SHARDED = Layout((3, 5, 11, 9), (2, 6, 6, 4), (1, 3, 2, 2), 1)
SPLIT = Layout((2, 24, 20, 30), (1, 7, 8, 16), (1, 7, 8, 16), 1)
TURNED = Layout((12, 103), (12, 10), (12, 10), 0)


class TestFourAxes(SourceLaws):
    layout = SPLIT

    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        self.path = tmp_path / "a.zarr"
        _, self.values = create(self.path, self.layout)

    def make(self) -> Source:
        return open_source(self.path, features_axis=self.layout.axis)

    def expected(self) -> np.ndarray:
        return expected(self.layout, self.values)[0]


class TestFourAxesInShards(TestFourAxes):
    layout = SHARDED


class TestFeaturesFirst(TestFourAxes):
    layout = TURNED


@pytest.mark.parametrize("layout", [SPLIT, SHARDED, TURNED])
def test_a_pass_decodes_each_chunk_once_and_gives_the_bits_of_the_rows(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, values = create(tmp_path / "a.zarr", layout)
    rows = expected(layout, values)[0]
    source = open_source(tmp_path / "a.zarr", features_axis=layout.axis)
    read: list[Any] = []
    read_chunk = ChunkReader._read_chunk

    def noting(self: ChunkReader, stored: Any, chunk: Any, *given: Any) -> None:
        read.append(chunk)
        read_chunk(self, stored, chunk, *given)

    monkeypatch.setattr(ChunkReader, "_read_chunk", noting)
    found = rs.measure(source)
    assert len(read) == len(set(read)) == len(parts(layout.shape, layout.inner))
    assert found.estimates["rankme"] == rs.measure(rows).estimates["rankme"]


def test_samples_groups_and_checkpoints_take_such_rows(tmp_path: Path) -> None:
    layout = Layout((4, 16, 60, 50), (1, 16, 20, 20), (1, 16, 20, 20), 1)
    _, values = create(tmp_path / "a.zarr", layout)
    rows, _, where = expected(layout, values)
    source = open_source(tmp_path / "a.zarr", features_axis=1)
    assert isinstance(source, ZarrSource)
    kinds = np.arange(60 * 50).reshape(60, 50) % 3
    labels = kinds[tuple(source.coordinates(0, len(rows))[:, 1:].T)]
    np.testing.assert_array_equal(labels, kinds[where[:, 1], where[:, 2]])
    grouped = rs.measure(source, groups=labels)
    for name in "012":
        assert grouped.groups[name]["rankme"] == rs.measure(rows, groups=labels).groups[name]["rankme"]
    kept = rs.measure(source, checkpoint=tmp_path / "state")
    assert kept.rankme.value == rs.measure(rows).rankme.value
    again = open_source(tmp_path / "a.zarr", features_axis=1)
    assert rs.measure(again, checkpoint=tmp_path / "state").rankme.value == kept.rankme.value
    with pytest.raises(UsageError, match="n features 16 there and 4 here"):
        rs.measure(open_source(tmp_path / "a.zarr", features_axis=0), checkpoint=tmp_path / "state")
    sampled = rs.measure(source, sample=True, tolerance=1.0)
    assert sampled.rankme.lower <= kept.rankme.value <= sampled.rankme.upper


@pytest.mark.parametrize("layout", [Layout((6, 5, 4), (2, 2, 3), (2, 2, 3), 2), TURNED])
def test_rows_before_the_tail_keep_their_fingerprint_when_an_array_grows(tmp_path: Path, layout: Layout) -> None:
    first = 1 if layout.axis == 0 else 0
    for length in (layout.shape[first], layout.shape[first] - 1):
        shutil.rmtree(tmp_path / "a.zarr", ignore_errors=True)
        cut = Layout(tuple(np.where(np.arange(len(layout.shape)) == first, length, layout.shape)), *layout[1:])
        array, _ = create(tmp_path / "a.zarr", Layout(tuple(map(int, cut.shape)), *layout[1:]))
        source = open_source(tmp_path / "a.zarr", features_axis=layout.axis)
        tail = source.tail_start
        per_entry = source.shape[0] // length
        step = layout.outer[first]
        assert tail == (length if length % step == 0 else length // step * step) * per_entry
        before, rows = source.fingerprint(0, tail), source.read(0, tail)
        grown = list(array.shape)
        grown[first] += 2 * step + 1
        array.resize(tuple(grown))
        again = open_source(tmp_path / "a.zarr", features_axis=layout.axis)
        assert again.fingerprint(0, tail) == before
        np.testing.assert_array_equal(again.read(0, tail), rows)
        assert source.fingerprint(0, tail) == before  # of an array that grew since it was opened


def test_a_missing_and_a_damaged_chunk_are_named(tmp_path: Path) -> None:
    create(tmp_path / "a.zarr", SPLIT)
    chunk = tmp_path / "a.zarr/c/1/2/0/1"
    content = chunk.read_bytes()
    source = open_source(tmp_path / "a.zarr", features_axis=1)
    start = 600 + 8 * 16
    chunk.write_bytes(content[:20])
    with pytest.raises(CorruptChunkError, match=rf"c/1/2/0/1 .*rows {start}-{start + 8 * 14}\)"):
        rs.measure(source)
    chunk.unlink()
    with pytest.raises(MissingChunksError, match=rf"c/1/2/0/1 \(rows {start}-{start + 8 * 14 - 1}\)"):
        rs.measure(source)
    assert rs.measure(source, missing="skip").audit.rows_missing == 8 * 14


def test_a_row_in_a_message_has_its_place_along_the_axes(tmp_path: Path) -> None:
    array, _ = create(tmp_path / "a.zarr", SPLIT)
    array[1, 3, 17, 20] = np.nan
    with pytest.raises(NonFiniteError, match=r"row 1,162 \(1, 17, 20 along the other axes\)"):
        rs.measure(open_source(tmp_path / "a.zarr", features_axis=1))


def test_arrays_of_any_rank_are_read_as_one(tmp_path: Path) -> None:
    rows = []
    for name in ("a", "b"):
        _, values = create(tmp_path / f"{name}.zarr", SPLIT)
        rows.append(expected(SPLIT, values)[0])
    source = open_source([str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")], features_axis=1)
    np.testing.assert_array_equal(source.read(1000, 1500), np.concatenate(rows)[1000:1500])
    bounds = open_source(tmp_path / "a.zarr", features_axis=1).bounds(0, 1200)
    assert list(source.bounds(0, 2400)) == [*bounds, 1200, *(1200 + bound for bound in bounds)]
    assert largest_unit(source.bounds(0, 2400), 0, 2400) == 8 * 16


def test_reads_of_turned_chunks_stay_within_the_memory_predicted(tmp_path: Path) -> None:
    layout = Layout((2, 96, 120, 130), (1, 96, 32, 32), (1, 96, 32, 32), 1)
    create(tmp_path / "a.zarr", layout)
    for way in ("folder", "store"):
        source = opened(tmp_path / "a.zarr", layout, way)
        source.read(0, 1024)
        for n_rows in (1024, 4096, 31_200):
            tracemalloc.start()
            source.read(0, n_rows)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert n_rows * 384 <= peak <= source.read_memory(n_rows)


@pytest.mark.parametrize("shards", [False, True])
def test_many_chunks_of_many_axes_take_neither_time_nor_memory(tmp_path: Path, shards: bool) -> None:
    outer = (1, 16, 128, 128) if shards else (1, 16, 64, 64)
    create(tmp_path / "a.zarr", Layout((1, 16, 64, 64), outer, (1, 16, 64, 64), 1))
    document = tmp_path / "a.zarr/zarr.json"
    document.write_text(json.dumps(json.loads(document.read_bytes()) | {"shape": [10**4, 16, 10**5, 10**5]}))
    tracemalloc.start()
    source = open_source(tmp_path / "a.zarr", features_axis=1)
    source.fingerprint(0, 10**14)
    planned = rs.plan(source)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert planned.block_rows >= 4096 and source.missing(5000, 10**14) == [(5000, 10**14)]
    assert os.listdir(tmp_path / "a.zarr/c") == ["0"]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_a_file_have_their_places_along_the_other_axes(tmp_path: Path, axis: int, order: Any) -> None:
    rows = np.arange(60.0).reshape(3, 4, 5)
    np.save(tmp_path / "x.npy", np.asarray(rows, order=order))
    source = open_source(tmp_path / "x.npy", features_axis=axis)
    places = tuple(source.coordinates(2, source.shape[0]).T)
    assert np.array_equal(np.moveaxis(rows, axis, -1)[places], source.read(2, source.shape[0]))
