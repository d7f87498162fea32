"""Files of vectors are read by the number type that their ending tells, and refused where their sizes contradict it."""

from __future__ import annotations

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions
from rankme_stream.sources.dense import dense_rows
from rankme_stream.sources.dense.vector_files import open_rows
from tests.bytes_file import ROWS, BytesFile, bin_bytes, vecs_bytes

BIN = {".fbin": "<f4", ".u8bin": "u1", ".i8bin": "i1", ".hbin": "<f2", ".f16bin": "<f2"}
VECS = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}


def file_of(ending, rows):
    return BytesFile((bin_bytes if ending in BIN else vecs_bytes)(rows), f"dump{ending}")


@pytest.mark.parametrize(("ending", "dtype"), [*BIN.items(), *VECS.items()])
def test_rows_are_read_to_the_same_bits(ending, dtype, monkeypatch):
    rows = np.random.default_rng(0).integers(0, 100, (103, 7)).astype(dtype)
    monkeypatch.setattr(dense_rows, "_CACHED_BYTES", 200)  # several reads of rows with other bytes between them
    source = open_rows(file_of(ending, rows), "", NO_OPTIONS)
    assert source.stored.name == np.dtype(dtype).name
    for start, stop in ((0, 103), (0, 1), (102, 103), (30, 77), (5, 5)):
        np.testing.assert_array_equal(source.read(start, stop), rows[start:stop])


@pytest.mark.parametrize("ending", [".FBIN", ".Fvecs"])
def test_endings_are_told_in_any_case(tmp_path, ending):
    (tmp_path / f"dump{ending}").write_bytes(file_of(ending.lower(), ROWS).content)
    np.testing.assert_array_equal(rs.open_source(tmp_path / f"dump{ending}").read(0, 7), ROWS)


@pytest.mark.parametrize("ending", [*BIN, *VECS])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_is_refused(ending, change):
    rows = ROWS.astype((BIN | VECS)[ending])
    content = file_of(ending, rows).content
    with pytest.raises(CorruptChunkError, match=f"dump{ending}"):
        open_rows(BytesFile(content + b"x" if change > 0 else content[:change], f"dump{ending}"), "", NO_OPTIONS)


@pytest.mark.parametrize(("ending", "content"), [(".fbin", b"\1\0\0\0"), (".fvecs", b""), (".fvecs", b"\0\0\0\0" * 4)])
def test_a_file_without_a_header_is_refused(ending, content):
    with pytest.raises(SourceFormatError, match=f"dump{ending} is"):
        open_rows(BytesFile(content, f"dump{ending}"), "", NO_OPTIONS)


def test_a_row_of_another_width_is_refused():
    content = bytearray(vecs_bytes(ROWS))
    content[24 * 5 : 24 * 5 + 4] = (4).to_bytes(4, "little")
    source = open_rows(BytesFile(bytes(content), "dump.fvecs"), "", NO_OPTIONS)
    np.testing.assert_array_equal(source.read(0, 5), ROWS[:5])
    with pytest.raises(CorruptChunkError, match=r"row 5 of dump.fvecs is not as wide as the first"):
        source.read(3, 7)


def test_a_file_of_vectors_has_one_array_and_one_axis_of_features():
    with pytest.raises(SourceFormatError, match=r"only its last axis can be the features"):
        open_rows(file_of(".fvecs", ROWS), "", ArrayOptions(features_axis=0))
    with pytest.raises(SourceFormatError, match=r"dump.fbin holds one array: leave '::' and what follows out"):
        open_rows(file_of(".fbin", ROWS), "emb", NO_OPTIONS)
    assert open_rows(file_of(".fbin", ROWS), "", ArrayOptions(features_axis=0)).shape == (5, 7)
