"""HDF5 files seen through VirtualiZarr."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from obspec_utils.registry import ObjectStoreRegistry
from obstore.store import LocalStore
from virtualizarr.parsers import HDFParser

import rankme_stream as rs
from tests.writers.frame import CHUNK, N_FEATURES, check, check_values, rows_of

ROWS = rows_of()
LAYOUTS: dict[str, dict[str, Any]] = {
    "deflated": {"chunks": (CHUNK, N_FEATURES), "compression": "gzip", "shuffle": True},
    "contiguous": {},
    "many chunks": {"chunks": (3, 4)},
}


def manifest_store(folder: Path, **layout: Any) -> Any:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("emb", data=ROWS, **layout)
        part = file.create_dataset("part", shape=ROWS.shape, dtype=ROWS.dtype, chunks=(CHUNK, N_FEATURES))
        part[: 2 * CHUNK] = ROWS[: 2 * CHUNK]
    return HDFParser()(url=f"file://{folder}/x.h5", registry=ObjectStoreRegistry({"file://": LocalStore()}))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_read_to_the_same_bits(tmp_path: Path, layout: str) -> None:
    store = manifest_store(tmp_path, **LAYOUTS[layout])
    check(zarr.open_group(store, mode="r")["emb"], ROWS)
    check(store, ROWS, path="emb")


def test_chunks_that_were_never_written_are_missing_and_no_others(tmp_path: Path) -> None:
    store = manifest_store(tmp_path)
    with pytest.raises(rs.RankMeError, match=r"chunk part/c/2/0 \(rows 200-599\) is missing"):
        rs.measure(rs.open_source(store, path="part"))
    assert rs.measure(rs.open_source(store, path="part"), missing="skip").rows_read == 2 * CHUNK


def test_a_store_names_itself_in_a_word_and_opens_in_another_process(tmp_path: Path) -> None:
    source = rs.open_source(manifest_store(tmp_path), path="emb")
    assert source.uri == "<ManifestStore>::emb"
    check(pickle.loads(pickle.dumps(source.reopen())), ROWS)


def test_a_group_lists_no_array_that_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(rs.RankMeError, match=r"is a group"):
        rs.open_source(manifest_store(tmp_path))


def test_a_file_that_is_gone_is_refused_and_never_filled(tmp_path: Path) -> None:
    source = rs.open_source(manifest_store(tmp_path), path="emb")
    (tmp_path / "x.h5").unlink()
    with pytest.raises(rs.RankMeError, match=r"emb/c/0/0 of <ManifestStore>"):
        rs.measure(source, missing="fill")


def test_packed_rows_mean_what_the_attributes_say(tmp_path: Path) -> None:
    packed = np.round(ROWS / 0.01).astype(np.int16)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file.create_dataset("emb", data=packed, chunks=(CHUNK, N_FEATURES)).attrs["scale_factor"] = 0.01
    store = HDFParser()(url=f"file://{tmp_path}/p.h5", registry=ObjectStoreRegistry({"file://": LocalStore()}))
    check_values(store, packed * 0.01, path="emb")
