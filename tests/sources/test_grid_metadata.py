"""Rectilinear chunk grids are read whatever the release of zarr-python, and impossible ones are refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import SourceFormatError
from rankme_stream.sources import Source, ZarrSource, open_source
from rankme_stream.testing import SourceLaws

ROWS = np.random.default_rng(2).standard_normal((100, 8)).astype("<f4")
EDGES: dict[str, list[Any]] = {
    "one by one": [[10, 10, 30, 50], 8],
    "in runs": [[[10, 2], 30, 50], [8]],
    "features too": [[[10, 2], [40, 2]], [3, 5]],
    "past the end": [[[30, 4], 7, [9, 1000]], 5],
    "of one length": [7, 3],
}


def write(path: Path, edges: list[Any], rows: np.ndarray = ROWS, **change: Any) -> Path:
    """Write a zarr array with a rectilinear grid by hand, in chunks without codecs, as the specification has it."""
    path.mkdir()
    document = {
        "zarr_format": 3, "node_type": "array", "shape": list(rows.shape), "data_type": "float32", "fill_value": 0.0,
        "chunk_grid": {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": edges}},
        "chunk_key_encoding": {"name": "default"}, "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }  # fmt: skip
    (path / "zarr.json").write_text(json.dumps(document | change))
    row = 0
    for i, n_rows in enumerate(_expanded(edges[0], len(rows))):
        column = 0
        for j, n_columns in enumerate(_expanded(edges[1], rows.shape[1])):
            chunk = np.zeros((n_rows, n_columns), "<f4")  # at its full length, as at the end of a regular grid
            part = rows[row : row + n_rows, column : column + n_columns]
            chunk[: part.shape[0], : part.shape[1]] = part
            (path / f"c/{i}").mkdir(parents=True, exist_ok=True)
            (path / f"c/{i}/{j}").write_bytes(chunk.tobytes())
            column += n_columns
        row += n_rows
    return path


def _expanded(edges: Any, length: int) -> list[int]:
    """Return the lengths of the chunks that hold some of an axis."""
    runs = (
        [[edges, length]] if isinstance(edges, int) else [one if isinstance(one, list) else [one, 1] for one in edges]
    )
    found: list[int] = []
    for size, count in runs:
        for _ in range(count):
            if sum(found) < length:
                found.append(size)
    return found


@pytest.mark.parametrize("name", EDGES)
def test_a_rectilinear_grid_is_read(tmp_path: Path, name: str) -> None:
    source = ZarrSource(write(tmp_path / "a.zarr", EDGES[name]))
    for start, stop in ((0, 100), (7, 33), (19, 21), (99, 100)):
        np.testing.assert_array_equal(source.read(start, stop), ROWS[start:stop])
    edges = np.cumsum(_expanded(EDGES[name][0], 100)).tolist()
    if name not in ("one by one", "in runs"):  # rows of whole features without codecs are read alone
        assert list(source.bounds(0, 100)) == [edge for edge in edges if edge < 100]
    assert rs.measure(source).rankme.value == rs.measure(ROWS).rankme.value


class TestRectilinear(SourceLaws):
    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        self.path = write(tmp_path / "a.zarr", EDGES["features too"])

    def make(self) -> Source:
        return open_source(self.path)

    def expected(self) -> np.ndarray:
        return ROWS


def test_missing_chunks_of_a_rectilinear_grid_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", EDGES["features too"])
    (path / "c/2/1").unlink()
    for find in (ZarrSource.fingerprint, ZarrSource.read):
        source = ZarrSource(path)
        find(source, 0, 100)
        assert source.missing(0, 100) == [(20, 60)] and source.first_missing == "c/2/1"


def test_rows_of_a_rectilinear_grid_keep_their_fingerprint_when_it_grows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", EDGES["in runs"])
    source = ZarrSource(path)
    before = source.fingerprint(0, 100)
    assert source.tail_start == 100
    document = json.loads((path / "zarr.json").read_bytes())
    document["shape"][0] = 120
    document["chunk_grid"]["configuration"]["chunk_shapes"][0].append(20)
    (path / "zarr.json").write_text(json.dumps(document))
    assert ZarrSource(path).fingerprint(0, 100) == before == source.fingerprint(0, 100)
    document["chunk_grid"]["configuration"]["chunk_shapes"][0][1:3] = [29, 51]
    (path / "zarr.json").write_text(json.dumps(document))
    assert ZarrSource(path).fingerprint(0, 100) != before


IMPOSSIBLE: dict[str, Any] = {
    "no chunks": [[], [8]],
    "one axis": [[100]],
    "three axes": [[100], [8], [1]],
    "too short": [[10, 20], [8]],
    "none long": [[0, 100], [8]],
    "fractions": [[50.5, 49.5], [8]],
    "a pair of three": [[[10, 2, 3], 100], [8]],
    "no times": [[[10, 0], 100], [8]],
    "beyond numbers": [[[2**40, 2**40]], [8]],
    "text": ["100", [8]],
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_rectilinear_grid_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.zarr", EDGES["in runs"])
    document = json.loads((path / "zarr.json").read_bytes())
    document["chunk_grid"]["configuration"]["chunk_shapes"] = IMPOSSIBLE[name]
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(SourceFormatError, match=r"a\.zarr"):
        ZarrSource(path)


@pytest.mark.parametrize("grid", [{"name": "rectilinear"}, {"name": "rectilinear", "configuration": {"kind": "file"}}])
def test_another_kind_of_grid_is_refused(tmp_path: Path, grid: dict[str, Any]) -> None:
    with pytest.raises(SourceFormatError, match=r"a\.zarr"):
        ZarrSource(write(tmp_path / "a.zarr", EDGES["in runs"], chunk_grid=grid))


def test_a_rectilinear_shape_beyond_all_files_takes_the_time_of_the_files_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", EDGES["in runs"])
    document = json.loads((path / "zarr.json").read_bytes())
    document["shape"][0] = 10**15
    document["chunk_grid"]["configuration"]["chunk_shapes"][0].append([10, 10**14])
    (path / "zarr.json").write_text(json.dumps(document))
    source = ZarrSource(path)
    began = time.monotonic()
    source.fingerprint(0, 10**15)
    assert source.missing(0, 10**15) == [(100, 10**15)] and source.chunks_missing == 10**14 - 10
    assert time.monotonic() - began < 5


def test_what_zarr_itself_writes_is_read(tmp_path: Path) -> None:
    if tuple(map(int, zarr.__version__.split(".")[:2])) < (3, 2):
        pytest.skip("zarr-python writes rectilinear grids from release 3.2 on")
    values = np.random.default_rng(4).standard_normal((20, 6, 15)).astype("f4")
    layouts: list[dict[str, Any]] = [
        {"chunks": [[5, 15], [6], [1, 2, 12]]}, {"chunks": (5, 6, 3), "shards": [[10, 5, 5], [6], [3, 12]]}
    ]  # fmt: skip
    for number, layout in enumerate(layouts):
        with zarr.config.set({"array.rectilinear_chunks": True}):
            array = zarr.create_array(tmp_path / f"{number}.zarr", shape=values.shape, dtype="f4", **layout)
            array[...] = values
        source = open_source(tmp_path / f"{number}.zarr", features_axis=1)
        assert isinstance(source, ZarrSource)
        t, x = source.coordinates(0, 300).T
        np.testing.assert_array_equal(source.read(0, 300), values[t, :, x])
        assert source.missing(0, 300) == [] and len(set(zip(t, x, strict=True))) == 300
