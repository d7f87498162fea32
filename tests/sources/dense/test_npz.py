"""Arrays of .npz archives, stored and deflated, are read where they lie, and damaged archives are refused."""

from __future__ import annotations

import io
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions
from rankme_stream.sources.dense import npz, zip_streams
from rankme_stream.sources.dense.npz import open_rows
from rankme_stream.sources.dense.zip_directory import zip_members
from rankme_stream.sources.labels import open_labels
from tests.bytes_file import ROWS, BytesFile, npz_bytes

LONG = np.random.default_rng(0).integers(0, 40, (3000, 32)).astype("<f4")  # which deflate makes shorter
both = pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])


def file_of(*, compressed=False, **arrays):
    return BytesFile(npz_bytes(compressed=compressed, **arrays), "dump.npz")


@both
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "i1"])
def test_rows_are_read_to_the_same_bits(compressed, order, dtype):
    rows = LONG.astype(dtype)
    source = open_rows(file_of(compressed=compressed, emb=np.asarray(rows, order=order)), "emb", NO_OPTIONS)
    for start, stop in ((0, 3000), (2999, 3000), (0, 1), (17, 1200)):
        np.testing.assert_array_equal(source.read(start, stop), rows[start:stop])


@both
def test_the_only_array_of_rows_needs_no_name(compressed):
    file = file_of(compressed=compressed, emb=ROWS, labels=np.arange(7), objects=np.array([{}]))
    assert open_rows(file, "", NO_OPTIONS).uri == "dump.npz::emb"
    with pytest.raises(
        SourceFormatError, match=r"holds a \(7, 5\) float32, b \(7, 5\) float64: say which .*dump.npz::a'"
    ):
        open_rows(file_of(compressed=compressed, a=ROWS, b=ROWS.astype("f8")), "", NO_OPTIONS)
    with pytest.raises(SourceFormatError, match=r"holds no 'embs': it holds emb, other: use e.g. 'dump.npz::emb'"):
        open_rows(file_of(compressed=compressed, emb=ROWS, other=ROWS), "embs", NO_OPTIONS)


def test_an_archive_is_reopened_by_path_and_name(tmp_path):
    np.savez(tmp_path / "dump.npz", **{"a::b": ROWS, "c": 2 * ROWS})
    source = rs.open_source(tmp_path / "dump.npz", path="a::b")
    np.testing.assert_array_equal(rs.open_source(source.reopen()).read(0, 7), ROWS)
    np.testing.assert_array_equal(rs.open_source(f"{tmp_path}/dump.npz::c").read(0, 7), 2 * ROWS)
    assert rs.open_source(f"{tmp_path}/dump.npz::c").fingerprint(0, 7) != source.fingerprint(0, 7)


def test_an_archive_by_another_name_is_known_by_its_first_bytes(tmp_path):
    (tmp_path / "dump").write_bytes(npz_bytes(emb=ROWS))
    np.testing.assert_array_equal(rs.open_source(tmp_path / "dump").read(0, 7), ROWS)


def damaged(compressed, where):
    """Return an archive one byte of whose array differs."""
    content = bytearray(npz_bytes(compressed=compressed, emb=LONG))
    if compressed:  # a content of another CRC, which unpacks
        other = LONG.copy()
        other[0, 0] += 1
        return bytes(content).replace(
            zlib.crc32(npy_bytes(LONG)).to_bytes(4, "little"), zlib.crc32(npy_bytes(other)).to_bytes(4, "little")
        )
    content[content.index(b"\x93NUMPY") + where] ^= 1
    return bytes(content)


def npy_bytes(rows):
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


@both
@pytest.mark.parametrize("where", [200, 128 + LONG.nbytes - 1])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_the_checksum_is_checked_once_all_rows_were_read(compressed, where, order):
    source = open_rows(BytesFile(damaged(compressed, where), "dump.npz"), "emb", NO_OPTIONS)
    last = 3 if compressed else order[-1]  # of deflated rows, whoever reads the end has unpacked all
    for part in order:
        if part != last:
            source.read(750 * part, 750 * part + 750)
    with pytest.raises(CorruptChunkError, match=r"dump[.]npz::emb is damaged: its CRC is not that of its bytes"):
        source.read(750 * last, 750 * last + 750)
    if not compressed:  # nor does a second pass pass
        with pytest.raises(CorruptChunkError, match=r"its CRC"):
            source.read(0, 1)


def test_a_sound_archive_passes_its_checksum_whatever_was_read_before():
    source = open_rows(file_of(emb=LONG), "emb", NO_OPTIONS)
    for start, stop in ((5, 9), (100, 2100), (7, 50), (0, 1500), (1500, 3000), (0, 3000)):
        np.testing.assert_array_equal(source.read(start, stop), LONG[start:stop])
    assert source._file._coverage.is_whole and not source._file._coverage.is_wrong


def test_deflated_members_are_unpacked_from_the_nearest_kept_state(monkeypatch):
    monkeypatch.setattr(zip_streams, "_LEAST_BETWEEN", 2**14)
    monkeypatch.setattr(zip_streams, "_INPUT_BYTES", 2**10)
    monkeypatch.setattr(zip_streams, "_OUTPUT_BYTES", 2**12)
    file = file_of(compressed=True, emb=LONG)
    source = open_rows(file, "emb", NO_OPTIONS)
    np.testing.assert_array_equal(source.read(0, 3000), LONG)
    n_kept = len(source._file._content._kept)
    assert 20 < n_kept <= LONG.nbytes // 2**14 + 1
    n_read, read = [], file.read
    monkeypatch.setattr(file, "read", lambda offset, n: n_read.append(n) or read(offset, n))
    np.testing.assert_array_equal(source.read(2000, 2010), LONG[2000:2010])
    assert sum(n_read) < 2**14
    for start, stop in np.random.default_rng(1).integers(0, 3000, (50, 2)):
        start, stop = min(start, stop), max(start, stop)
        np.testing.assert_array_equal(source.read(start, stop), LONG[start:stop])
    assert len(source._file._content._kept) == n_kept


@both
def test_threads_read_the_same(compressed):
    source = open_rows(file_of(compressed=compressed, emb=LONG), "emb", NO_OPTIONS)
    edges = [(start, start + 100) for start in range(0, 3000, 100)] * 3
    with ThreadPoolExecutor(8) as pool:
        for (start, stop), rows in zip(edges, pool.map(lambda edge: source.read(*edge), edges), strict=True):
            np.testing.assert_array_equal(rows, LONG[start:stop])


def test_compressed_rows_that_lie_feature_by_feature_are_refused_where_they_are_long(monkeypatch):
    file = file_of(compressed=True, emb=np.asfortranarray(LONG))
    monkeypatch.setattr(npz, "_LARGEST_BY_FEATURE", 2**16)
    with pytest.raises(SourceFormatError, match=r"each block of rows would unpack all of it"):
        open_rows(file, "emb", NO_OPTIONS)
    assert open_rows(file_of(compressed=False, emb=np.asfortranarray(LONG)), "emb", NO_OPTIONS).shape == (3000, 32)


@pytest.mark.parametrize("stated", [2**40, LONG.nbytes + 129, LONG.nbytes + 127])
def test_a_member_that_unpacks_to_another_size_is_refused(stated):
    member = zip_members(file := file_of(compressed=True, emb=LONG), "dump.npz")["emb.npy"]
    held = file.content.replace(member.n_bytes.to_bytes(4, "little"), min(stated, 2**32 - 2).to_bytes(4, "little"))
    with pytest.raises(CorruptChunkError):
        open_rows(BytesFile(held, "dump.npz"), "emb", NO_OPTIONS).read(0, 3000)


def test_a_cut_deflate_stream_is_refused():
    member = zip_members(file := file_of(compressed=True, emb=LONG), "dump.npz")["emb.npy"]
    held = bytearray(file.content)
    held[member.start + 5000 : member.start + 5400] = bytes(400)
    with pytest.raises(CorruptChunkError, match=r"dump.npz::emb"):
        open_rows(BytesFile(bytes(held), "dump.npz"), "emb", NO_OPTIONS).read(0, 3000)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16"])
def test_codes_beside_scales_are_not_taken_for_values(kind):
    file = file_of(codes=ROWS.astype(kind), scales=np.ones(7), other=np.ones(3))
    with pytest.raises(
        SourceFormatError, match=r"holds u?int\d+, and scales beside it may be its scales: give scales="
    ):
        open_rows(file, "codes", NO_OPTIONS)
    assert open_rows(file, "codes", ArrayOptions(decode="linear")).shape == (7, 5)


def test_scales_lie_in_the_same_archive(tmp_path):
    scales = np.arange(7) + 0.5
    np.savez(tmp_path / "dump.npz", codes=(2 * ROWS).astype("i1"), scales=scales)
    for named in ("scales", f"{tmp_path}/dump.npz::scales"):
        source = rs.open_source(f"{tmp_path}/dump.npz::codes", scales=named)
        np.testing.assert_array_equal(source.read(0, 7), 2 * ROWS * scales[:, None])


def test_names_that_numpy_takes_for_one_are_refused():
    stream = io.BytesIO(npz_bytes(emb=ROWS))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("emb", npy_bytes(2 * ROWS))
    with pytest.raises(CorruptChunkError, match=r"two arrays of one name"):
        open_rows(BytesFile(stream.getvalue(), "dump.npz"), "emb", NO_OPTIONS)


def test_many_arrays_are_not_opened_to_find_one(monkeypatch):
    monkeypatch.setattr(npz, "_MOST_OPENED", 2)
    with pytest.raises(
        SourceFormatError, match=r"holds a, b, c: say which of them holds the rows, such as 'dump.npz::a'"
    ):
        open_rows(file_of(a=ROWS, b=ROWS, c=ROWS), "", NO_OPTIONS)


@both
def test_labels_lie_in_the_archive_too(tmp_path, compressed):
    names = np.array(["cat", "dog", "owl"])[np.arange(3000) % 3]
    (tmp_path / "dump.npz").write_bytes(npz_bytes(compressed=compressed, emb=LONG, labels=names, other=np.arange(3000)))
    labels = open_labels(f"{tmp_path}/dump.npz::labels")
    assert (labels.n_rows, labels.uri) == (3000, f"{tmp_path}/dump.npz::labels")
    np.testing.assert_array_equal(labels.read(7, 2999), names[7:2999])
    (tmp_path / "one.npz").write_bytes(npz_bytes(compressed=compressed, emb=LONG, labels=names))
    np.testing.assert_array_equal(open_labels(tmp_path / "one.npz").read(0, 3), names[:3])
    for inside, said in (
        ("", "holds labels .*, other .*: say which"),
        ("::none", "no 'none'"),
        ("::emb", "one dimension"),
    ):
        with pytest.raises(SourceFormatError, match=said):
            open_labels(f"{tmp_path}/dump.npz{inside}")
