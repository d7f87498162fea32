"""Chunks of unlike size: which are found, what they are said to hold, and that a sample's numbers ignore them."""

from __future__ import annotations

import jsonschema
import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.measuring.sampling.odd_chunks import find_odd_chunks, robust_scores
from tests.result_schema import SCHEMA

D = 16


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((4_000, D)).astype(np.float32)


def store(path, rows, chunk=64):
    config = {"write_empty_chunks": True}
    zarr.create_array(path, data=rows, chunks=(chunk, D), config=config, fill_value=0.0)
    return path


def spoiled(rows):
    found = rows.copy()
    found[640:704] = 0.0
    found[1280:1344] = found[1280]
    found[1920:1984] = np.arange(64.0)[:, None]
    found[2560:2624] = np.nan
    found[3264:3300] = 0.0  # a part of a chunk
    return found


def test_what_odd_chunks_hold_is_told(tmp_path, rows):
    odd = find_odd_chunks(rs.open_source(store(tmp_path / "x.zarr", spoiled(rows))), (0, 4_000), 640)
    assert {(one.start, one.stop): one.holds for one in odd.read} == {
        (640, 704): "zeros", (1280, 1344): "copies", (1920, 1984): "one number a row", (2560, 2624): "not finite",
        (3264, 3328): "zeros",
    }  # fmt: skip
    assert (odd.n_chunks, odd.found, odd.rows) == (63, 5, 320)
    assert odd.largest_z == max(abs(one.z) for one in odd.read) > 100.0


def test_no_more_rows_are_read_than_allowed_but_one_chunk_is(tmp_path, rows):
    source = rs.open_source(store(tmp_path / "x.zarr", spoiled(rows)))
    assert find_odd_chunks(source, (0, 4_000), 130).rows == 128
    assert find_odd_chunks(source, (0, 4_000), 10).rows == 64


def test_a_chunk_that_does_not_decode_is_told_and_ends_nothing(tmp_path, rows):
    path = store(tmp_path / "x.zarr", rows)
    chunk = path / "c" / "9" / "0"
    chunk.write_bytes(chunk.read_bytes()[:500])
    (one,) = find_odd_chunks(rs.open_source(path), (0, 4_000), 640).read
    assert (one.start, one.stop, one.holds) == (576, 640, "unreadable")


def test_usual_chunks_are_not_odd(tmp_path, rows):
    assert find_odd_chunks(rs.open_source(store(tmp_path / "x.zarr", rows)), (0, 4_000), 640).found == 0
    assert find_odd_chunks(rs.open_source(rows), (0, 4_000), 640) is None
    assert find_odd_chunks(rs.open_source(store(tmp_path / "y.zarr", rows, 1000)), (0, 4_000), 640) is None


def test_scores_are_robust_and_leave_out_what_is_not_known():
    sizes = np.array([1000] * 50 + [0, 400, 1003])
    assert robust_scores(sizes).tolist() == [0.0] * 51 + [-600.0, 3.0]


@pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")
def test_a_sample_says_what_odd_chunks_hold_and_its_numbers_have_no_part_of_them(tmp_path, rows):
    held = spoiled(rows)[:1920]
    found, in_memory = (
        rs.measure(source, sample=True, max_rows=600, tolerance=0.5)
        for source in (store(tmp_path / "x.zarr", held), held)
    )
    document = found.to_dict()
    jsonschema.validate(document, SCHEMA)
    odd = document["sampling"].pop("odd_chunks")
    assert odd["holds"] == {"zeros": 1, "copies": 1}
    assert (odd["chunks"], odd["found"], odd["examples"][0]["rows"]) == (30, 2, [640, 704])
    (remark,) = set(document["remarks"]) - set(in_memory.to_dict()["remarks"])
    assert remark.startswith(
        "2 of 30 chunks are stored in a size unlike the others, most of all that of rows 640 to 703"
    )
    assert "rows of zeros in 1" in remark
    assert " ".join(str(found).split()).count(" ".join(remark.split())) == 1
    alone = in_memory.to_dict()
    assert alone["estimates"] == document["estimates"]
    assert alone["sampling"] | {"rows_decoded": 0} == document["sampling"] | {"rows_decoded": 0}
