"""What sources say of how they are stored, for people."""

from __future__ import annotations

import numpy as np
import zarr

import rankme_stream as rs
from rankme_stream.sources import describe_storage, is_remote, storage_of

ROWS = np.arange(1000 * 32, dtype=np.float32).reshape(1000, 32)


def facts(source):
    return dict(storage_of(source).facts)


def test_a_zarr_array_says_its_chunks_shards_compression_and_stored_bytes(tmp_path):
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=ROWS, chunks=(100, 16), shards=(500, 32))
    source = rs.open_source(path)
    assert storage_of(source).n_bytes is None  # before its chunks are looked for
    source.fingerprint(0, 1000)
    found = storage_of(source)
    assert (found.format, found.where) == ("zarr v3", "on this machine")
    assert facts(rs.open_source(path)) == {
        "chunks": "20 of up to 100 x 16, 2 side by side along the features", "shards": "2 of up to 500 x 32",
        "compression": "zstd",
    }  # fmt: skip
    files = sum(one.stat().st_size for one in (path / "c").rglob("*") if one.is_file())
    assert found.n_bytes == files


def test_the_bytes_of_chunks_that_reach_past_the_array_count_whole(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=ROWS, chunks=(300, 32))
    files = sum(one.stat().st_size for one in (tmp_path / "a.zarr/c").rglob("*") if one.is_file())
    assert rs.measure(tmp_path / "a.zarr").to_dict()["source"]["storage"]["bytes_stored"] == files


def test_chunks_without_compression_have_the_bytes_of_their_files(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=ROWS, chunks=(300, 32), compressors=None)
    found = storage_of(rs.open_source(tmp_path / "a.zarr"))
    assert found.n_bytes == sum(one.stat().st_size for one in (tmp_path / "a.zarr/c").rglob("*") if one.is_file())
    assert found.n_requests == 4


def test_axes_of_a_grid_are_said(tmp_path):
    zarr.create_array(tmp_path / "g.zarr", data=ROWS.reshape(32, 50, 20), chunks=(32, 10, 10), zarr_format=2)
    source = rs.open_source(tmp_path / "g.zarr", features_axis=0)
    assert storage_of(source).format == "zarr v2"
    assert facts(source)["order"].startswith("axes 32 x 50 x 20, axis 0 that of the features")


def test_files_arrays_in_memory_and_parts_say_what_they_are(tmp_path):
    np.save(tmp_path / "e_1.npy", ROWS)
    np.save(tmp_path / "e_2.npy", np.asfortranarray(ROWS[:10]).astype(">f4"))
    assert storage_of(rs.open_source(tmp_path / "e_1.npy")).format == ".npy file"
    assert facts(rs.open_source(tmp_path / "e_2.npy"))["order"] == "feature by feature"
    joined = storage_of(rs.open_source(str(tmp_path / "e_*.npy")))
    assert dict(joined.facts)["parts"] == "2 arrays of 10 to 1,000 rows, half of them at most 1,000"
    assert (joined.format, joined.n_bytes) == (".npy file", ROWS.nbytes + ROWS[:10].nbytes)
    assert storage_of(rs.open_source(ROWS))[:3] == ("array", (("order", "row by row"),), ROWS.nbytes)


def test_scales_and_bits_are_said_with_the_rows_that_they_belong_to(tmp_path):
    np.save(tmp_path / "codes.npy", ROWS.astype(np.int8))
    np.save(tmp_path / "scales.npy", np.ones(1000, np.float32))
    scaled = storage_of(rs.open_source(tmp_path / "codes.npy", scales=str(tmp_path / "scales.npy")))
    assert scaled.n_bytes == 32_000 + 4_000 and "scales.npy" in dict(scaled.facts)["scales"]
    bits = storage_of(rs.open_source(tmp_path / "codes.npy", decode="bits"))
    assert (bits.format, bits.n_bytes) == (".npy file", 32_000)


def test_a_deflated_member_says_so_and_its_packed_size(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", rows=ROWS)
    found = storage_of(rs.open_source(tmp_path / "a.npz"))
    assert "deflate" in dict(found.facts)["compression"]
    assert 0.9 * (tmp_path / "a.npz").stat().st_size < found.n_bytes < (tmp_path / "a.npz").stat().st_size


class OnAServer:
    """Source that says nothing of its storage."""

    uri, shape, stored = "https://host:8080/a/dump.lance?x=1", (3, 4), rs.open_source(ROWS).stored

    def reopen(self):
        return self.uri


def test_a_source_that_says_nothing_is_told_by_its_name():
    assert is_remote(OnAServer()) and not is_remote(rs.open_source(ROWS))
    assert describe_storage(OnAServer()) == {
        "storage": {"format": ".lance file", "where": "on https://host:8080", "bytes": 48}
    }
