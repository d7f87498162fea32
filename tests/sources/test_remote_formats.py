"""Files of every format on a server that fails: the rows as they are, or an error, never other numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rankme_stream as rs
from benchmarks.resilience.object_server import ObjectServer
from rankme_stream.errors import SourceChangedError, SourcePermissionError, StorageError
from rankme_stream.sources.formats import format_of
from rankme_stream.sources.stores import remote_file
from rankme_stream.sources.stores.attempts import SECONDS
from tests.dumps import rows_like

ROWS = rows_like(5000, 16)


def _safetensors(path: Path) -> None:
    header = b'{"x":{"dtype":"F32","shape":[5000,16],"data_offsets":[0,320000]}}'.ljust(72)
    path.write_bytes(len(header).to_bytes(8, "little") + header + ROWS.tobytes())


def _fbin(path: Path) -> None:
    path.write_bytes(np.array([5000, 16], "<u4").tobytes() + ROWS.tobytes())


def _parquet(path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    column = arrow.FixedSizeListArray.from_arrays(arrow.array(ROWS.ravel()), 16)
    parquet.write_table(arrow.table({"x": column}), path, row_group_size=1000, compression="zstd")


def _arrow(path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"x": arrow.FixedSizeListArray.from_arrays(arrow.array(ROWS.ravel()), 16)})
    with arrow.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=1000)


def _hdf5(path: Path) -> None:
    with pytest.importorskip("h5py").File(path, "w") as file:
        file.create_dataset("x", data=ROWS, chunks=(500, 16), compression="gzip")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "x.npy": lambda path: np.save(path, ROWS),
    "x.npz": lambda path: np.savez_compressed(path, x=ROWS),
    "y.npz": lambda path: np.savez(path, x=ROWS),
    "x.safetensors": _safetensors, "x.fbin": _fbin, "x.parquet": _parquet, "x.arrow": _arrow, "x.h5": _hdf5,
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with ObjectServer(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture(params=WRITERS)
def url(request: pytest.FixtureRequest, server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a file of one format, which comes in several parts."""
    if format_of(request.param) is None:
        pytest.skip("the format is not read here")
    if not (server.root / request.param).exists():
        WRITERS[request.param](server.root / request.param)
    monkeypatch.setattr(remote_file, "_PART_BYTES", 2**16)
    monkeypatch.setenv(SECONDS, "2")
    server.choose = lambda method, path: None
    return f"{server.url}/{request.param}" + (
        "::x" if request.param[-4:] != ".npy" and ".fbin" not in request.param else ""
    )


def _read(url: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = rs.open_source(url)
        assert source.shape == ROWS.shape
        return np.concatenate([np.array(source.read(start, start + 500)) for start in range(0, 5000, 500)])


def test_faults_that_pass_change_nothing_whichever_request_they_meet(url: str, server: ObjectServer) -> None:
    asked = [0]

    def choose(method: str, path: str) -> Any:
        asked[0] += 1
        return {2: 500, 5: "cut", 8: "short", 11: 404}.get(asked[0])

    rs.open_source(url)
    server.choose = choose
    assert np.array_equal(_read(url), ROWS) and asked[0] > 5


def test_faults_that_stay_are_told_as_what_they_are(
    url: str, server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = rs.open_source(url)
    monkeypatch.setenv(SECONDS, "0.1")
    for fault, error in ((403, SourcePermissionError), (503, StorageError), ("changed", SourceChangedError)):
        server.choose = lambda method, path, fault=fault: fault
        with pytest.raises(error) as caught:
            source.read(0, 5000)
        assert "\n" not in str(caught.value)
        with pytest.raises(error):
            source.fingerprint(0, 5000)
