"""HDF5 files seen through the references of kerchunk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
import zarr
from kerchunk.combine import MultiZarrToZarr
from kerchunk.hdf import SingleHdf5ToZarr

import rankme_stream as rs
from tests.writers.frame import CHUNK, N_FEATURES, check, check_values, rows_of

ROWS = rows_of()
LAYOUTS: dict[str, dict[str, Any]] = {
    "deflated": {"chunks": (CHUNK, N_FEATURES), "compression": "gzip", "shuffle": True},
    "chunks": {"chunks": (CHUNK, 7)},
    "contiguous": {},
    "small chunks": {"chunks": (2, N_FEATURES)},
}


def references(folder: Path, rows: Any = ROWS, *, threshold: int = 0, **layout: Any) -> dict[str, Any]:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("group/emb", data=rows, **layout)
        part = file.create_dataset("part", shape=rows.shape, dtype=rows.dtype, chunks=(CHUNK, N_FEATURES))
        part[: 2 * CHUNK] = rows[: 2 * CHUNK]
    found: dict[str, Any] = SingleHdf5ToZarr(str(folder / "x.h5"), inline_threshold=threshold).translate()
    (folder / "x.json").write_text(json.dumps(found))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("threshold", [0, 500])
def test_rows_are_read_to_the_same_bits(tmp_path: Path, layout: str, threshold: int) -> None:
    found = references(tmp_path, threshold=threshold, **LAYOUTS[layout])
    check(f"reference://::file://{tmp_path}/x.json::group/emb", ROWS)
    files = fsspec.filesystem("reference", fo=found, asynchronous=True)
    for path in ("", "/"):
        check(zarr.storage.FsspecStore(files, path=path, read_only=True), ROWS, path="group/emb")
    options = {"fo": str(tmp_path / "x.json")}
    check(zarr.open_group("reference://", mode="r", zarr_format=2, storage_options=options)["group/emb"], ROWS)


def test_packed_rows_hold_no_data_where_kerchunk_says_so(tmp_path: Path) -> None:
    """The fill value of HDF5, 0 by default, is that of zarr v2, which xarray takes for no data where it is packed."""
    packed = np.round(ROWS / 0.01).astype(np.int16)
    packed[(packed == 0).any(axis=1)] = 1
    packed[5, 3] = 0
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("emb", data=packed, chunks=(CHUNK, N_FEATURES)).attrs["scale_factor"] = 0.01
    (tmp_path / "x.json").write_text(json.dumps(SingleHdf5ToZarr(str(tmp_path / "x.h5")).translate()))
    uri = f"reference://::file://{tmp_path}/x.json::emb"
    with pytest.raises(rs.RankMeError, match=r"row 5 holds no data \(0\), by scale_factor, fill_value.*nodata NaN"):
        rs.measure(uri)
    check_values(uri, packed * 0.01, nodata=float("nan"))
    check_values(uri, np.where((packed == 0).any(axis=1)[:, None], np.nan, packed * 0.01))


def test_more_chunks_than_are_asked_for_one_by_one(tmp_path: Path) -> None:
    references(tmp_path, chunks=(2, 4))
    check(f"reference://::file://{tmp_path}/x.json::group/emb", ROWS)


def test_chunks_that_were_never_written_are_missing_and_no_others(tmp_path: Path) -> None:
    references(tmp_path, chunks=(CHUNK, N_FEATURES))
    uri = f"reference://::file://{tmp_path}/x.json::part"
    with pytest.raises(rs.RankMeError, match=r"chunk part/2.0 \(rows 200-599\) is missing"):
        rs.measure(uri)
    assert rs.measure(uri, missing="skip").rows_read == 2 * CHUNK


def test_files_combined_are_read_as_one(tmp_path: Path) -> None:
    singles = []
    for number in range(2):
        path = str(tmp_path / f"{number}.h5")
        with h5py.File(path, "w") as file:
            emb = file.create_dataset("emb", data=ROWS[300 * number : 300 * number + 300], chunks=(CHUNK, N_FEATURES))
            row = file.create_dataset("row", data=range(300 * number, 300 * number + 300))
            row.make_scale("row")
            emb.dims[0].attach_scale(row)
        singles.append(SingleHdf5ToZarr(path, inline_threshold=0).translate())
    combined = MultiZarrToZarr(singles, concat_dims=["row"], remote_protocol="file").translate()
    (tmp_path / "all.json").write_text(json.dumps(combined))
    check(f"reference://::file://{tmp_path}/all.json::emb", ROWS)


def test_a_file_written_again_is_another_fingerprint(tmp_path: Path) -> None:
    references(tmp_path, chunks=(CHUNK, N_FEATURES))
    source = rs.open_source(f"reference://::file://{tmp_path}/x.json::group/emb")
    before = source.fingerprint(0, len(ROWS))
    assert source.fingerprint(0, len(ROWS)) == before
    os.utime(tmp_path / "x.h5", (1, 1))
    assert source.fingerprint(0, len(ROWS)) != before
