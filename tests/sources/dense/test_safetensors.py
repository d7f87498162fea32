"""Tensors of safetensors files are read where they lie; a header that contradicts itself or the file is refused."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import CorruptChunkError, SourceError, SourceFormatError
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions
from rankme_stream.sources.dense import safetensors
from rankme_stream.sources.dense.safetensors import open_rows
from tests.bytes_file import ROWS, BytesFile, safetensors_bytes, with_header

TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2, "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "U16": "<u2",
    "U32": "<u4", "U64": "<u8",
}  # fmt: skip


def file_of(**tensors):
    return BytesFile(safetensors_bytes(metadata={"format": "pt"}, **tensors), "dump.safetensors")


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_read_to_the_same_values(kind):
    rows = np.abs(2 * ROWS).astype(TYPES[kind])
    source = open_rows(file_of(labels=("I64", np.arange(7)), emb=(kind, rows)), "emb", NO_OPTIONS)
    np.testing.assert_array_equal(source.stored.values(source.read(0, 7)), np.abs(2 * ROWS))
    np.testing.assert_array_equal(source.read(2, 5).view("u1"), rows[2:5].view("u1").reshape(3, -1))


@pytest.mark.parametrize("kind", ["BOOL", "F8_E8M0"])
def test_other_types_are_refused_by_name(kind):
    with pytest.raises(SourceFormatError, match=f"dump.safetensors::emb holds {kind}, which is not read"):
        open_rows(file_of(emb=(kind, np.ones((7, 5), "u1"))), "", NO_OPTIONS)


def test_the_only_tensor_of_rows_needs_no_name():
    file = file_of(labels=("I64", np.arange(7)), emb=("F32", ROWS))
    assert open_rows(file, "", NO_OPTIONS).uri == "dump.safetensors::emb"
    with pytest.raises(SourceFormatError, match=r"holds a \(7, 5\) F32, b \(7, 5\) F32: say which"):
        open_rows(file_of(a=("F32", ROWS), b=("F32", ROWS)), "", NO_OPTIONS)


def header(**held):
    one = {"dtype": "F32", "shape": [7, 5], "data_offsets": [0, 140]} | held
    return json.dumps({"emb": one}).encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (header(shape=[7, 6]), "its header describes 'emb' wrongly"),
        (header(shape=[-7, -5]), "wrongly"),
        (header(shape=[7.0, 5]), "wrongly"),
        (header(shape=[True, 35]), "wrongly"),
        (header(shape="75"), "wrongly"),
        (header(dtype="F33"), "wrongly"),
        (header(dtype=["F32"]), "wrongly"),
        (header(data_offsets=[0, 141]), "wrongly"),
        (header(data_offsets=[140, 0]), "wrongly"),
        (header(data_offsets=[0, 140, 280]), "wrongly"),
        (header(extra=1), "wrongly"),
        (header(shape=[2**62, 2**62], data_offsets=[0, 2**62]), "wrongly"),
        (header(data_offsets=[4, 144]), "its tensors leave gaps or overlap at byte 4"),
        (header(shape=[7, 4], data_offsets=[0, 112]), "has [0-9]+ bytes, and its header says"),
        (header(shape=[7, 6], data_offsets=[0, 168]), "has [0-9]+ bytes, and its header says"),
        (header()[:-1] + b"," + header()[1:], "a name stands twice"),
        (b'{"emb": ' + b"[" * 100_000, "its header is no JSON object"),
        (b'{"emb": 1' + b"0" * 5000 + b"}", "its header is no JSON object"),
        (b'["emb"]   ', "its header is no JSON object"),
        (b'{"emb": "\xff"}', "its header is no JSON object"),
        (b" " + header(), "its header is no JSON object"),
        (b"{}", "its header says 10"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(text, said):
    with pytest.raises(CorruptChunkError, match=said):
        open_rows(BytesFile(with_header(text, ROWS.tobytes()), "dump.safetensors"), "", NO_OPTIONS)


@pytest.mark.parametrize("stated", [0, 1, 2**20, 2**63, 2**64 - 1])
def test_a_length_of_the_header_beyond_the_file_is_refused_before_it_is_read(stated):
    with pytest.raises(SourceFormatError, match=r"is no safetensors file, or it is cut"):
        open_rows(BytesFile(stated.to_bytes(8, "little") + header(), "dump.safetensors"), "", NO_OPTIONS)


def test_a_long_header_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(safetensors, "LARGEST_HEADER", 50)
    with pytest.raises(SourceFormatError, match=r"has a header of [0-9]+ bytes, and 50 are read"):
        open_rows(file_of(emb=("F32", ROWS)), "", NO_OPTIONS)


@pytest.mark.parametrize("scales", ["emb_scale_inv", "emb.scale", "scales", "absmax"])
@pytest.mark.parametrize("kind", ["F8_E4M3", "I8"])
def test_codes_beside_scales_are_not_taken_for_values(tmp_path, kind, scales):
    codes = (2 * ROWS).astype(TYPES[kind])
    content = safetensors_bytes(**{"emb": (kind, codes), scales: ("F32", np.arange(7, dtype="<f4"))})
    path = tmp_path / "dump.safetensors"
    path.write_bytes(content)
    with pytest.raises(SourceFormatError, match=f'and {scales} beside it may be its scales: give scales="{scales}"'):
        rs.open_source(path)
    source = rs.open_source(path, scales=scales)
    np.testing.assert_array_equal(source.read(0, 7), 2 * ROWS * np.arange(7)[:, None])
    plain = rs.open_source(path, decode="linear")
    np.testing.assert_array_equal(plain.stored.values(plain.read(0, 7)), 2 * ROWS)


def test_scales_of_blocks_of_rows_are_refused(tmp_path):
    content = safetensors_bytes(emb=("F8_E4M3", ROWS.astype(TYPES["F8_E4M3"])), emb_scale_inv=("F32", ROWS[:2, :2]))
    (tmp_path / "dump.safetensors").write_bytes(content)
    with pytest.raises(SourceFormatError, match=r"which do not fit the 7 rows"):
        rs.open_source(tmp_path / "dump.safetensors::emb", scales="emb_scale_inv")


@pytest.fixture
def shards(tmp_path):
    for number in (1, 2):
        content = safetensors_bytes(**{f"emb{number}": ("F32", number * ROWS)})
        (tmp_path / f"model-{number}.safetensors").write_bytes(content)
    return tmp_path


def write_index(folder, **names):
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 280}, "weight_map": names}))
    return path


def test_an_index_leads_to_the_file_of_a_tensor(shards):
    index = write_index(shards, emb1="model-1.safetensors", emb2="model-2.safetensors")
    source = rs.open_source(f"{index}::emb2")
    np.testing.assert_array_equal(source.read(0, 7), 2 * ROWS)
    np.testing.assert_array_equal(rs.open_source(source.reopen()).read(0, 7), 2 * ROWS)
    with pytest.raises(SourceFormatError, match=r"holds emb1, emb2: say which of them holds the rows"):
        rs.open_source(index)


@pytest.mark.parametrize("name", ["../model-1.safetensors", "/etc/passwd", "sub/x.safetensors", "x.bin", "", 3, None])
def test_an_index_leads_to_files_beside_it_alone(shards, name):
    with pytest.raises(SourceFormatError, match=r"a file beside it is needed"):
        rs.open_source(write_index(shards, emb1=name))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{" * 10])
def test_what_is_no_index_is_refused(shards, text):
    (shards / "x.safetensors.index.json").write_text(text)
    with pytest.raises(SourceError):
        rs.open_source(shards / "x.safetensors.index.json")


def test_names_and_options_are_those_of_one_array():
    with pytest.raises(SourceFormatError, match=r"holds no 'embs': it holds emb"):
        open_rows(file_of(emb=("F32", ROWS)), "embs", NO_OPTIONS)
    assert open_rows(file_of(emb=("F32", ROWS)), "", ArrayOptions(features_axis=0)).shape == (5, 7)
