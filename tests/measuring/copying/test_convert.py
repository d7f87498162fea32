"""Copies in zarr: the same bits, whole or not there, and gone on with after an interruption."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import (
    LimitError,
    MissingChunksError,
    OutputError,
    SourceChangedError,
    StateError,
    UsageError,
)
from rankme_stream.measuring.copying import copy_plan
from rankme_stream.sources.zarr.writer import UnfinishedArray
from tests.command_line import rankme, refused
from tests.dumps import rows_like, store
from tests.interruptions import Stop, stop_after

ROWS = rows_like(2000, 12)


@pytest.fixture
def small_shards(monkeypatch):
    """Chunks of 21 rows, files of 672."""
    monkeypatch.setattr(copy_plan, "_CHUNK_BYTES", 1024)
    monkeypatch.setattr(copy_plan, "_SHARD_BYTES", 1)


def packed_integers(path: Path) -> Path:
    array = zarr.open(store(path, ROWS.astype(np.int16), chunk=300), mode="r+")
    array.attrs.update({"scale_factor": 0.1, "add_offset": -2.5, "missing_value": [-9999, 7777], "valid_max": 8000})
    return path


def floats_without_data(path: Path) -> Path:
    zarr.open(store(path, ROWS.astype(np.float16), chunk=300), mode="r+").attrs.update({"_FillValue": -9999.0})
    return path


def scaled(path: Path) -> Path:
    group = zarr.open_group(path, mode="w")
    group.create_array("codes", data=(ROWS * 50).astype(np.int8), chunks=(700, 12))
    group.create_array("scales", data=np.abs(ROWS[:, 0]), chunks=(900,))
    return path


def parts(folder: Path) -> Path:
    folder.mkdir()
    for number, part in enumerate(np.split(ROWS, [700, 701, 1500])):
        np.save(folder / f"part_{number}.npy", part)
    return folder


SOURCES = {
    "float16 in memory": lambda path: ROWS.astype(np.float16),
    "bfloat16 in memory": lambda path: ROWS.astype(ml_dtypes.bfloat16),
    "float8 in memory": lambda path: ROWS.astype(ml_dtypes.float8_e4m3fn),
    "features first, big-endian": lambda path: np.asfortranarray(ROWS.astype(">f8")),
    "zarr of float32": lambda path: store(path / "a.zarr", ROWS, chunk=300),
    "packed integers": lambda path: packed_integers(path / "a.zarr"),
    "no data among floats": lambda path: floats_without_data(path / "a.zarr"),
    "bits that zstd halves": lambda path: ROWS.astype(ml_dtypes.bfloat16).astype(np.float64),
    "rows that an array scales": lambda path: rs.open_source(scaled(path / "a.zarr"), path="codes", scales="scales"),
    "files as one": lambda path: f"{parts(path / 'parts')}/*.npy",
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.usefixtures("small_shards")
def test_a_copy_holds_the_same_bits_and_means_the_same(tmp_path, name):
    source = SOURCES[name](tmp_path)
    done = rs.convert(source, tmp_path / "copy.zarr")
    original, copy = rs.open_source(source), rs.open_source(tmp_path / "copy.zarr")
    assert copy.read(0, 2000).tobytes() == original.read(0, 2000).tobytes()
    assert (copy.stored.name, copy.integrity) == (original.stored.name, "crc32c")
    assert done.compression == {"float16 in memory": "none", "bits that zstd halves": "zstd"}.get(
        name, done.compression
    )
    found, wanted = (rs.measure(one, nonfinite="skip").to_dict() for one in (copy, original))
    for numbers in (found, wanted):
        del numbers["audit"]["integrity"]
    assert [found[key] for key in ("estimates", "spectrum", "audit")] == [
        wanted[key] for key in ("estimates", "spectrum", "audit")
    ]
    assert all(re.fullmatch(r"zarr\.json|c\.\d\.0", entry) for entry in os.listdir(tmp_path / "copy.zarr"))
    assert [entry for entry in os.listdir(tmp_path) if entry.startswith("copy")] == ["copy.zarr"]


def test_zarr_reads_a_copy_and_its_attributes(tmp_path):
    rs.convert(packed_integers(tmp_path / "a.zarr"), tmp_path / "copy.zarr")
    copy = zarr.open_array(tmp_path / "copy.zarr", mode="r")
    assert np.array_equal(copy[:], ROWS.astype(np.int16))
    assert dict(copy.attrs) == {
        "scale_factor": 0.1, "add_offset": -2.5, "missing_value": [-9999, 7777], "valid_max": 8000,
    }  # fmt: skip


@pytest.mark.usefixtures("small_shards")
def test_a_stream_of_blocks_and_a_range_of_rows_are_copied(tmp_path):
    blocks = ({"label": 1, "rows": block} for block in np.split(ROWS, [3, 3, 1500]))
    rs.convert(blocks, tmp_path / "stream.zarr", key="rows")
    rs.convert(ROWS, tmp_path / "range.zarr", rows=(10, 1990), workers=2)
    assert np.array_equal(rs.open_source(tmp_path / "stream.zarr").read(0, 2000), ROWS)
    assert np.array_equal(rs.open_source(tmp_path / "range.zarr").read(0, 1980), ROWS[10:1990])
    with pytest.raises(UsageError, match="rows is for rows that are stored"):
        rs.convert(iter([ROWS]), tmp_path / "no.zarr", rows=(0, 5))


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_copy_goes_on_and_is_no_array_before_its_end(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    with pytest.raises(Stop) as stopped:
        rs.convert(tmp_path / "a.npy", tmp_path / "copy.zarr", progress=stop_after(1400), memory_limit=2**40)
    partial = tmp_path / "copy.zarr.partial"
    assert stopped.value.__notes__ == [f"1,344 rows are kept in {partial}: run again to go on"]
    assert sorted(os.listdir(partial)) == ["c.0.0", "c.1.0", "progress.json"]
    refused(3, "no zarr array|nothing", "score", partial)
    written = (partial / "c.0.0").stat().st_mtime_ns
    done = rs.convert(tmp_path / "a.npy", tmp_path / "copy.zarr", workers=1)
    assert done.rows_before == 1344
    assert (tmp_path / "copy.zarr/c.0.0").stat().st_mtime_ns == written
    assert np.array_equal(rs.open_source(tmp_path / "copy.zarr").read(0, 2000), ROWS)


@pytest.fixture
def beginning(tmp_path, small_shards) -> Path:
    """A folder with the first 1,344 rows of a copy of ``a.npy``."""
    np.save(tmp_path / "a.npy", ROWS)
    with pytest.raises(Stop):
        rs.convert(tmp_path / "a.npy", tmp_path / "copy.zarr", progress=stop_after(1400))
    return tmp_path / "copy.zarr.partial"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: np.save(folder.parent / "a.npy", -ROWS[:1999]),
        lambda folder: (folder / "c.1.0").unlink(),
        lambda folder: (folder / "progress.json").unlink(),
        lambda folder: (folder / "progress.json").write_text("[" * 100_000),
        lambda folder: change(folder / "progress.json", rows_done=1344.0),
        lambda folder: change(folder / "progress.json", rows_done=2001),
        lambda folder: change(folder / "progress.json", level=10**9),
        lambda folder: change(folder / "progress.json", document={}),
    ],
)
def test_a_beginning_of_other_rows_or_a_damaged_one_is_not_gone_on_with(beginning, spoil):
    spoil(beginning)
    with pytest.raises(StateError, match=r"delete .*partial to start over"):
        rs.convert(beginning.parent / "a.npy", beginning.parent / "copy.zarr")
    assert (beginning / "c.0.0").exists()


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_other_rows_and_streams_do_not_go_on_with_a_beginning(beginning):
    for source, rows in ((beginning.parent / "a.npy", (1, None)), (iter([ROWS]), None)):
        with pytest.raises(StateError, match=r"delete .*partial to start over"):
            rs.convert(source, beginning.parent / "copy.zarr", rows=rows)
    assert (beginning / "c.1.0").exists()


@pytest.mark.usefixtures("small_shards")
def test_rows_that_change_while_they_are_copied_leave_no_copy(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    with pytest.raises(SourceChangedError, match="changed while it was copied"):
        rs.convert(tmp_path / "a.npy", tmp_path / "copy.zarr", progress=lambda _: os.utime(tmp_path / "a.npy"))
    assert os.listdir(tmp_path) == ["a.npy"]


def test_missing_chunks_are_never_copied_as_numbers(tmp_path):
    path = store(tmp_path / "a.zarr", ROWS, chunk=300)
    (path / "c/3/0").unlink()
    with pytest.raises(MissingChunksError, match=r"chunk c/3/0 \(rows 900-1,199\) is missing.* give rows to copy"):
        rs.convert(path, tmp_path / "copy.zarr")
    assert os.listdir(tmp_path) == ["a.zarr"]
    assert rs.convert(path, tmp_path / "copy.zarr", rows=(0, 900)).n_rows == 900


@pytest.mark.usefixtures("small_shards")
def test_a_full_disk_keeps_what_was_written(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", ROWS)
    sync, calls = os.fsync, []

    def fill(descriptor):
        calls.append(descriptor)
        if len(calls) > 6:  # the note at the beginning and its folder, the first file, and their note
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(OutputError, match="No space left on device; free space") as full:
        rs.convert(tmp_path / "a.npy", tmp_path / "copy.zarr")
    assert "672 rows are kept" in full.value.__notes__[0]
    monkeypatch.setattr(os, "fsync", sync)
    assert rs.convert(tmp_path / "a.npy", tmp_path / "copy.zarr").rows_before == 672


def test_a_copy_that_the_disk_has_no_space_for_is_refused_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(copy_plan.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 95_000}))
    with pytest.raises(OutputError, match="95,000 bytes free, and the copy takes 96,000"):
        rs.convert(ROWS, tmp_path / "copy.zarr")
    assert os.listdir(tmp_path) == []


def test_what_does_not_read_back_as_it_was_read_is_refused(tmp_path, monkeypatch):
    write = UnfinishedArray.write_shard

    def spoil(array, chunks):
        write(array, chunks)
        with open(tmp_path / "copy.zarr.partial/c.0.0", "r+b") as file:
            file.write(b"\1")

    monkeypatch.setattr(UnfinishedArray, "write_shard", spoil)
    with pytest.raises(OutputError, match="does not read back as it was written"):
        rs.convert(ROWS, tmp_path / "copy.zarr")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("dest", "error", "message"),
    [
        ("old.zarr", UsageError, "exists, and a copy replaces nothing"),
        ("b.npy", UsageError, "that ends in .zarr"),
        ("s3://bucket/b.zarr", UsageError, "that ends in .zarr"),
        ("b.zarr::a", UsageError, "that ends in .zarr"),
        ("no/b.zarr", OutputError, "the folder no does not exist"),
        ("a.zarr/b.zarr", UsageError, "lies in a.zarr, which is read: give a folder outside"),
        ("\0.zarr", UsageError, "that ends in .zarr"),
        ("\ud800.zarr", UsageError, "that ends in .zarr"),
        ("a.zarr/zarr.json/b.zarr", OutputError, "Not a directory"),
        ("mine.zarr", StateError, "holds files of something else"),
    ],
)
def test_places_that_hold_something_are_left_alone(tmp_path, monkeypatch, dest, error, message):
    monkeypatch.chdir(tmp_path)
    store(tmp_path / "a.zarr", ROWS)
    (tmp_path / "old.zarr").mkdir()
    (tmp_path / "mine.zarr.partial").mkdir()
    (tmp_path / "mine.zarr.partial/mine").touch()
    with pytest.raises(error, match=re.escape(message)):
        rs.convert("a.zarr", dest)
    assert sorted(os.listdir()) == ["a.zarr", "mine.zarr.partial", "old.zarr"]
    assert os.listdir("mine.zarr.partial") == ["mine"]


def test_two_runs_do_not_write_one_copy(tmp_path):
    (tmp_path / "copy.zarr.partial").mkdir()
    descriptor = os.open(tmp_path / "copy.zarr.partial", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(OutputError, match="being written by another process"):
        rs.convert(ROWS, tmp_path / "copy.zarr")
    os.close(descriptor)


def test_limits_and_rules_that_cannot_be_kept_are_refused(tmp_path):
    with pytest.raises(LimitError, match=r"needs [\d,]+ MiB at least and the limit is 8 MiB; give memory_limit \d+MiB"):
        rs.convert(ROWS, tmp_path / "copy.zarr", memory_limit=2**23)
    codes = store(tmp_path / "a.zarr", ROWS.astype(np.int8))
    with pytest.raises(UsageError, match="give it when the copy is scored"):
        rs.convert(rs.open_source(codes, decode="power:2:127"), tmp_path / "copy.zarr")
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_the_command_says_what_it_wrote_and_how_to_score_it(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    done = rankme("convert", "a.npy", "copy.zarr", "--json", "done.json", "--rows", "0:1000", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[0] == "copy.zarr: 1,000 rows x 12, read back and equal"
    assert done.stdout.splitlines()[-1] == "  rankme score copy.zarr"
    written = json.loads((tmp_path / "done.json").read_text())
    size = sum(path.stat().st_size for path in (tmp_path / "copy.zarr").iterdir())
    assert (written["bytes_of_numbers"], written["bytes_before"], written["bytes_after"]) == (48_000, None, size)
    assert rankme(*written["command"].split()[1:], "--quiet", cwd=tmp_path).returncode == 0
    refused(2, "exists, and a copy replaces nothing", "convert", tmp_path / "a.npy", tmp_path / "copy.zarr")
    np.save(tmp_path / "b.npy", ROWS[:5])
    two = ("convert", tmp_path / "b.npy", tmp_path / "a.npy", tmp_path / "two.zarr")
    refused(2, "pass --concat to take them as one dump", *two)
    assert rankme(*two, "--concat", "--quiet").returncode == 0
    assert np.array_equal(rs.open_source(tmp_path / "two.zarr").read(1999, 2005), np.vstack([ROWS[1999:], ROWS[:5]]))
