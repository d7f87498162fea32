"""Flat indexes of FAISS are read where their vectors lie, and others are refused with what reads them."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.sources.array_options import NO_OPTIONS
from rankme_stream.sources.dense.faiss_flat import open_rows
from tests.bytes_file import ROWS, BytesFile, faiss_bytes, faiss_header, mapped_faiss_bytes

INDEXES = {
    "inner product": faiss_bytes(b"IxFI", 0),
    "L2": faiss_bytes(b"IxF2", 1),
    "Lp": faiss_bytes(b"IxFl", 4),
    "map of ids": mapped_faiss_bytes(),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_vectors_are_read_to_the_same_bits(kind, tmp_path):
    source = open_rows(BytesFile(INDEXES[kind]), "", NO_OPTIONS)
    np.testing.assert_array_equal(source.read(0, 7), ROWS)
    np.testing.assert_array_equal(source.read(3, 5), ROWS[3:5])
    (tmp_path / "vectors").write_bytes(INDEXES[kind])  # known by its first bytes
    np.testing.assert_array_equal(rs.open_source(tmp_path / "vectors").read(0, 7), ROWS)


@pytest.mark.parametrize("kind", INDEXES)
@pytest.mark.parametrize("change", [-1, 1])
def test_an_index_of_another_size_is_refused(kind, change):
    content = INDEXES[kind] + b"x" if change > 0 else INDEXES[kind][:change]
    with pytest.raises(CorruptChunkError, match=r"is truncated|has bytes behind its array"):
        open_rows(BytesFile(content), "", NO_OPTIONS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no index of FAISS, or it is cut: it begins with b''"),
        (b"IxF2" + bytes(10), "is no index of FAISS"),
        (b"\x93NUMPY" + bytes(100), "is no index of FAISS"),
        (faiss_bytes(b"IHNf"), r"of the kind 'IHNf', and flat ones are read: .*index.reconstruct_n\(0, index.ntotal\)"),
        (faiss_bytes(rows=ROWS[:, :0]), "non-empty"),
        (faiss_header(b"IxF2", 1, (-1, -5)) + struct.pack("<Q", 5) + bytes(100), "which no file can hold"),
        (faiss_header(b"IxF2", 1, (2**62, 2**30)) + struct.pack("<Q", 2**63) + bytes(100), "and 9,223,372,036,854"),
        (
            faiss_header(b"IxF2", 1, (7, 5)) + struct.pack("<Q", 36) + ROWS.tobytes(),
            "7 rows of 5 features and 36 values",
        ),
        (INDEXES["L2"].replace(b"\1\1\0\0\0", b"\2\1\0\0\0", 1), "says 2 for true or false"),
        (faiss_header(b"IxMp", 0, (8, 5)) + INDEXES["L2"], "an index of 8 rows maps the ids of 7"),
        (faiss_header(b"IxMp", 0, (7, 5)) + faiss_bytes(b"IxMp", 0), "of the kind 'IxMp'"),
    ],
)
def test_what_is_no_flat_index_is_refused(content, said):
    with pytest.raises((SourceFormatError, CorruptChunkError), match=said):
        open_rows(BytesFile(content), "", NO_OPTIONS)


def test_a_map_of_other_ids_is_refused():
    content = bytearray(mapped_faiss_bytes())
    content[-8 * 8 : -7 * 8] = struct.pack("<Q", 8)
    with pytest.raises(CorruptChunkError, match=r"maps 8 ids to 7 rows"):
        open_rows(BytesFile(bytes(content)), "", NO_OPTIONS)
