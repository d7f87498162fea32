"""Files of strangers: links, damaged indices and bombs are refused in one line, and nothing crashes."""

from __future__ import annotations

import os
import random
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from rankme_stream.errors import CorruptChunkError, RankMeError, SourceFormatError
from rankme_stream.sources import open_source
from rankme_stream.sources.hdf5 import described

ROWS = np.random.default_rng(8).standard_normal((60, 8)).astype(np.float32)


def refused(path: Path, inside: str = "x") -> str:
    with pytest.raises(SourceFormatError) as raised:
        open_source(f"{path}::{inside}")
    message = str(raised.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("rows", data=ROWS, chunks=(6, 8), compression="gzip", shuffle=True)
    return tmp_path / "x.h5"


def test_links_stay_within_the_file(path: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = ROWS
    with h5py.File(path, "r+") as file:
        file["x"] = h5py.ExternalLink("other.h5", "/x")
        file["through"] = h5py.SoftLink("/x")
        file["soft"] = h5py.SoftLink("rows")
        file["here"] = h5py.SoftLink("/there")
        file["there"] = h5py.SoftLink("here")
        group = file.create_group("g")
        group["self"] = group
    assert "is a link into another file, 'other.h5'" in refused(path)
    assert "is a link into another file" in refused(path, "through")
    assert "in a circle" in refused(path, "here")
    np.testing.assert_array_equal(open_source(f"{path}::soft").read(0, 60), ROWS)
    np.testing.assert_array_equal(open_source(str(path)).read(0, 60), ROWS)  # groups in circles are listed once


def test_values_in_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((60, 8), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (60, 8))
    with h5py.File(path, "r+") as file:
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", (60, 8), "f4", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
    assert "is a virtual dataset" in refused(path, "virtual")
    assert "external storage" in refused(path, "external")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ([("a", "f4"), ("b", "f4")], "records"),
        ("S5", "text"),
        (h5py.vlen_dtype(np.float32), "rows of other lengths"),
        (bool, "booleans"),
        ("c8", "records"),
        (h5py.ref_dtype, "references"),
    ],
)
def test_values_that_are_no_numbers_are_named(path: Path, kind: object, words: str) -> None:
    with h5py.File(path, "r+") as file:
        file.create_dataset("x", (60, 8), kind)
    assert words in refused(path)


def test_a_sparse_matrix_of_anndata_is_refused_with_its_remedy(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_group("X").attrs["encoding-type"] = "csr_matrix"
    assert "adata.X.toarray()" in refused(path, "X")


@pytest.mark.parametrize("content", [b"", b"CDF\x01", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(3000)])
def test_what_is_no_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.h5").write_bytes(content)
    refused(tmp_path / "x.h5")


def test_a_chunk_that_expands_is_refused_within_its_size(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["rows"].id.write_direct_chunk((6, 0), zlib.compress(bytes(2**20)))
    with pytest.raises(CorruptChunkError, match=r"chunk rows/1.0 of .* \(rows 6-12\)"):
        open_source(str(path)).read(0, 60)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=ROWS, chunks=(6, 8), fletcher32=True)
        offset = dataset.id.get_chunk_info(4).byte_offset
    with open(tmp_path / "x.h5", "r+b") as file:
        file.seek(offset + 7)
        file.write(b"\x55")
    source = open_source(str(tmp_path / "x.h5"))
    assert source.integrity == "fletcher32"
    with pytest.raises(CorruptChunkError, match=r"rows 24-30"):
        source.read(0, 60)


def test_a_damaged_key_for_which_h5py_reads_fill_values_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=ROWS, chunks=(6, 8))
    content = bytearray((tmp_path / "x.h5").read_bytes())
    key = content.index(b"TREE\1\0") + 24 + 10 * 40  # behind the ten entries of the only leaf
    assert content[key + 8] == 54
    content[key + 8] = 6  # the key behind the last chunk, before which it has to be
    (tmp_path / "x.h5").write_bytes(content)
    with h5py.File(tmp_path / "x.h5") as file:
        assert (file["x"][54:] == 0).all()
    assert "has a damaged index of chunks" in refused(tmp_path / "x.h5")


def test_a_filter_that_is_not_installed_is_named(path: Path) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((6, 8))
    properties.set_filter(65000, h5py.h5z.FLAG_OPTIONAL, (1,))
    with h5py.File(path, "r+") as file:
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((60, 8)), properties)
    assert "the filter 65000 of HDF5" in refused(path)
    assert "h5repack" in refused(path)


def test_a_process_that_dies_is_a_refusal_and_the_next_file_is_read(path: Path) -> None:
    open_source(str(path))
    process = described.PROCESS.process
    assert process is not None
    process.kill()
    process.wait()
    assert "the library crashed on it" in refused(path, "rows")
    np.testing.assert_array_equal(open_source(str(path)).read(0, 60), ROWS)


def test_a_process_that_had_nothing_to_do_is_started_again(path: Path) -> None:
    open_source(str(path))
    process = described.PROCESS.process
    assert process is not None and process.stdin is not None
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, process.stdin.fileno())
    os.close(nothing)
    assert process.wait() == 0
    np.testing.assert_array_equal(open_source(str(path)).read(0, 60), ROWS)


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "seed.h5", "w") as file:
        file.create_dataset("x", data=ROWS, chunks=(6, 8), compression="gzip", fletcher32=True)
    seed, draw = (tmp_path / "seed.h5").read_bytes(), random.Random(26)
    n_refused = 0
    for _ in range(60):
        content = bytearray(seed)
        for _ in range(draw.choice((1, 2, 8))):
            content[draw.randrange(len(content))] = draw.choice((0, 1, 127, 255, draw.randrange(256)))
        (tmp_path / "x.h5").write_bytes(content)
        try:
            source = open_source(f"{tmp_path}/x.h5::x", nodata="nan")
            rows = source.read(0, source.shape[0])
        except RankMeError:
            n_refused += 1
            continue
        if not source.chunks_missing and rows.shape == ROWS.shape and rows.dtype == ROWS.dtype:
            np.testing.assert_array_equal(rows, ROWS)
    assert 5 < n_refused < 60
