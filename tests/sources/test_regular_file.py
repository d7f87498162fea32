"""What is no regular file is refused at once: pipes are not waited for, and devices not read without end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import CorruptChunkError, OutputError, RankMeError, SourceFormatError, StateError
from rankme_stream.measuring.saved_results import read_results
from rankme_stream.passes.state import state_file
from rankme_stream.results.downstream_scores import read_scores
from rankme_stream.sources import open_source
from rankme_stream.sources.labels import open_labels
from rankme_stream.sources.stores.regular_file import check_replaceable, open_regular

ROWS = np.random.default_rng(0).standard_normal((60, 4))


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(path))  # the name of a socket is short


def _folder(path: Path) -> None:
    path.mkdir()


KINDS = {"named pipe": _pipe, "device": _device, "socket": _socket, "folder": _folder}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_said_with_a_remedy(tmp_path: Path, kind: str) -> None:
    KINDS[kind](tmp_path / "x")
    with pytest.raises(OSError, match=rf"it is .*{kind}.*; (copy|name)"):
        open_regular(tmp_path / "x")
    with pytest.raises(OSError, match="give another name"):
        check_replaceable(tmp_path / "x")


READERS: dict[str, tuple[str, Callable[[str], object], type[RankMeError]]] = {
    "rows": ("x.npy", open_source, SourceFormatError),
    "labels": ("x.npy", open_labels, SourceFormatError),
    "a zip file": ("x.zip", open_source, SourceFormatError),
    "labels in a zip file": ("x.zip", open_labels, SourceFormatError),
    "a state": ("x", rs.load_state, StateError),
    "results": ("x.json", read_results, RankMeError),
    "scores": ("x.csv", read_scores, SourceFormatError),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_refuses_what_is_no_file(tmp_path: Path, kind: str, name: str) -> None:
    file, read, error = READERS[name]
    if kind == "folder" and "zip" in name:
        pytest.skip("a folder may be a store")
    KINDS[kind](tmp_path / file)
    with pytest.raises(error, match=rf"{file}.* it is .*{kind}") as caught:
        read(file)
    assert "\n" not in str(caught.value)


NAMES = {"a loop": "loop.npy", "too long": "a" * 300 + ".npy", "NUL": "a\0.npy", "a surrogate": "a\ud800.npy"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("read", [open_source, open_labels, rs.load_state, read_results, read_scores])
def test_names_that_no_file_has_are_refused(tmp_path: Path, name: str, read: Callable[[str], object]) -> None:
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    with pytest.raises(RankMeError):
        read(NAMES[name])
    if read in (open_source, open_labels):
        with pytest.raises(RankMeError):
            read(NAMES[name].replace(".npy", ".zarr"))


@pytest.mark.parametrize("kind", ["named pipe", "device", "socket"])
@pytest.mark.parametrize("document", ["zarr.json", ".zarray", ".zattrs"])
def test_metadata_that_are_no_file_are_refused(tmp_path: Path, kind: str, document: str) -> None:
    version = 3 if document == "zarr.json" else 2
    zarr.create_array("a.zarr", shape=(60, 4), chunks=(20, 4), dtype="f8", zarr_format=version)[:] = ROWS
    (tmp_path / "a.zarr" / document).unlink()
    KINDS[kind](tmp_path / "a.zarr" / document)
    for read in (open_source, open_labels):
        with pytest.raises(SourceFormatError, match=rf"a\.zarr has metadata .* it is .*{kind}"):
            read("a.zarr")


def test_metadata_longer_than_any_are_not_read(tmp_path: Path) -> None:
    zarr.create_array("a.zarr", shape=(60, 4), chunks=(20, 4), dtype="f8")[:] = ROWS
    with open("a.zarr/zarr.json", "ab") as file:
        file.truncate(2**27)
    with pytest.raises(SourceFormatError, match="134,217,728 bytes"):
        open_source("a.zarr")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"shards": (20, 4)}, {"compressors": None}])
def test_a_chunk_that_is_no_file_is_refused(tmp_path: Path, kind: str, settings: dict[str, object]) -> None:
    zarr.create_array("a.zarr", shape=(60, 4), chunks=(10, 4), dtype="f8", **settings)[:] = ROWS  # type: ignore[arg-type]
    (tmp_path / "a.zarr/c/1/0").unlink()
    KINDS[kind](tmp_path / "a.zarr/c/1/0")
    source = open_source("a.zarr")
    source.fingerprint(0, 60)
    with pytest.raises(CorruptChunkError, match=rf"chunk c/1/0.* of a\.zarr \(rows .* it is .*{kind}"):
        source.read(0, 60)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_does_not_replace_what_is_no_file(tmp_path: Path, kind: str) -> None:
    KINDS[kind](tmp_path / "x")
    before = (tmp_path / "x").lstat()
    with pytest.raises(OutputError, match="give another name"):
        state_file.write(tmp_path / "x", {}, [])
    assert (tmp_path / "x").lstat() == before and len([*tmp_path.iterdir()]) == 1


def test_labels_cut_while_they_are_read_end_in_an_error() -> None:
    np.save("l.npy", np.arange(2**20))
    labels = open_labels("l.npy")
    assert labels.read(5, 8).tolist() == [5, 6, 7]
    os.truncate("l.npy", 4096)
    with pytest.raises(CorruptChunkError, match=r"l\.npy ends within rows"):
        labels.read(2**19, 2**20)


@pytest.mark.parametrize("shape", ["(-5, -4)", "(5, 4.0)", "(True, 4)", "(10**30, 4)", "(5, 4, 0)", "[5, 4]"])
def test_npy_headers_with_impossible_shapes_are_refused(shape: str) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    with open("a.npy", "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(160))
    for read in (open_source, open_labels):
        with pytest.raises(RankMeError, match=r"a\.npy"):
            read("a.npy")


def test_an_npy_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with open("a.npy", "wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little"))
        file.truncate(2**31)
    with pytest.raises(SourceFormatError, match=r"not a \.npy file"):
        open_source("a.npy")


@pytest.mark.parametrize("labels", [np.array(["a\ud800"] * 3), np.full(3, 0x110005, np.uint32).view("<U1")])
def test_labels_that_are_no_text_are_refused(labels: np.ndarray) -> None:
    np.save("l.npy", labels)
    with pytest.raises(SourceFormatError, match="no character"):
        rs.measure(ROWS[:3], groups="l.npy")


def test_labels_longer_than_names_are_refused() -> None:
    np.save("l.npy", np.array(["a" * 5000, "b"]))
    with pytest.raises(SourceFormatError, match="5,000 characters"):
        open_labels("l.npy")
    with pytest.raises(SourceFormatError, match="5,000 characters"):
        rs.measure(ROWS[:2], groups=np.array(["a" * 5000, "b"], object))
