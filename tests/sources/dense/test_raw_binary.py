"""Numbers without a header are read as the caller says, where they fill the file."""

from __future__ import annotations

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import CorruptChunkError, SourceFormatError, UsageError
from tests.bytes_file import ROWS, faiss_bytes, npz_bytes, safetensors_bytes


@pytest.mark.parametrize("dtype", ["float32", "<f4", ">f4", ">f8", "float16", "int8", ">i2"])
@pytest.mark.parametrize("offset", [None, 0, 13])
def test_rows_are_read_to_the_same_bits(tmp_path, dtype, offset):
    rows = ROWS.astype(dtype)
    path = tmp_path / "dump.bin"
    path.write_bytes(b"x" * (offset or 0) + rows.tobytes())
    source = rs.open_source(path, dtype=dtype, width=5, offset=offset)
    np.testing.assert_array_equal(source.read(2, 7), rows[2:])
    np.testing.assert_array_equal(rs.open_source(source.reopen()).read(0, 7), rows)


def test_an_ending_may_tell_the_type(tmp_path):
    for ending, name in ((".f32", "float32"), (".f16", "float16"), (".f64", "float64")):
        ROWS.astype(name).tofile(tmp_path / f"dump{ending}")
        np.testing.assert_array_equal(rs.open_source(tmp_path / f"dump{ending}", width=5).read(0, 7), ROWS)
    (ROWS.view("<u4") >> 16).astype("<u2").tofile(tmp_path / "dump.bf16")
    source = rs.open_source(tmp_path / "dump.bf16", width=5)
    np.testing.assert_array_equal(source.stored.values(source.read(0, 7)), ROWS)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({}, UsageError, "holds numbers without a header: give dtype and width, the number of features of a row"),
        ({"width": 5}, UsageError, "give dtype, the type of its numbers, such as float32"),
        ({"dtype": "float32"}, UsageError, "give width, the number of features"),
        ({"dtype": "float32", "width": 6}, CorruptChunkError, "from byte 0 do not fill: 20 are left over; check width"),
        ({"dtype": "float32", "width": 5, "offset": 1}, CorruptChunkError, "19 are left over"),
        (
            {"dtype": "float32", "width": 5, "offset": 140},
            SourceFormatError,
            "a row of 5 float32 from byte 140 needs 20",
        ),
        ({"dtype": "float32", "width": 5, "offset": 10**9}, SourceFormatError, "holds 140 bytes"),
        ({"dtype": "float32", "width": 2**62}, SourceFormatError, "holds 140 bytes"),
    ],
)
def test_what_does_not_fill_the_file_is_refused(tmp_path, options, error, said):
    ROWS.tofile(tmp_path / "dump.raw")
    with pytest.raises(error, match=said):
        rs.open_source(tmp_path / "dump.raw", **options)


@pytest.mark.parametrize("content", [npz_bytes(), safetensors_bytes(), faiss_bytes()])
def test_a_file_of_another_format_is_read_as_that(tmp_path, content):
    (tmp_path / "dump.bin").write_bytes(content)
    np.testing.assert_array_equal(rs.open_source(tmp_path / "dump.bin").read(0, 7), ROWS)


def test_scales_without_a_header_need_no_width(tmp_path):
    np.save(tmp_path / "codes.npy", (2 * ROWS).astype("i1"))
    np.arange(7, dtype="<f4").tofile(tmp_path / "scales.f32")
    source = rs.open_source(tmp_path / "codes.npy", scales=str(tmp_path / "scales.f32"))
    np.testing.assert_array_equal(source.read(0, 7), 2 * ROWS * np.arange(7)[:, None])
