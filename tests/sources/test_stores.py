"""Stores of many kinds: the same rows from each, its missing chunks found, and no error that is not ours."""

from __future__ import annotations

import base64
import json
import pickle
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, LoggingStore, MemoryStore, WrapperStore, ZipStore

import rankme_stream as rs
from rankme_stream.errors import (
    CorruptChunkError,
    MissingChunksError,
    RankMeError,
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
)
from rankme_stream.sources.address import split_address
from rankme_stream.sources.stores.attempts import SECONDS
from rankme_stream.sources.stores.turns import needs_turns
from tests.dumps import rows_like, same_bits

ROWS = rows_like(600, 16)
LACKING = "c/4/0"  # rows 400-499 of the array `half`


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Folder with a store in a folder, in a zip file, and as references to the files of the folder."""
    folder: Path = tmp_path_factory.mktemp("stores")
    for name in ("emb", "half"):
        zarr.create_array(folder / "dump.zarr", name=name, shape=ROWS.shape, chunks=(100, 16), dtype="f4")[:] = ROWS
    (folder / "dump.zarr" / "half" / LACKING).unlink()
    shutil.make_archive(str(folder / "dump.zarr"), "zip", folder / "dump.zarr")
    shutil.make_archive(str(folder / "named"), "zip", folder, "dump.zarr")
    (folder / "refs.json").write_text(json.dumps(references(folder / "dump.zarr")))
    return folder


def references(store: Path) -> dict[str, Any]:
    """Return references as kerchunk writes them: documents inside, chunks as parts of files."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        is_document = path.name == "zarr.json"
        key = path.relative_to(store).as_posix()
        found[key] = path.read_text() if is_document else [str(path), 0, path.stat().st_size]
    return found


class Bare(Store):
    """Store that answers to `get` alone, as VirtualiZarr's does."""

    supports_writes = supports_deletes = False
    supports_listing = True

    def __init__(self, folder: Path) -> None:
        super().__init__(read_only=True)
        self._folder = folder

    def __eq__(self, other: object) -> bool:
        return self is other

    async def get(self, key, prototype, byte_range=None):
        return await LocalStore(self._folder, read_only=True).get(key, prototype, byte_range)

    async def get_partial_values(self, prototype, key_ranges):
        raise NotImplementedError

    async def exists(self, key):
        raise NotImplementedError

    async def set(self, key, value):
        raise NotImplementedError

    async def delete(self, key):
        raise NotImplementedError

    def list(self):
        raise NotImplementedError

    list_dir = list_prefix = lambda self, prefix: self.list()


class Denies(WrapperStore[Store]):
    """Store whose `exists` denies what it has, as fsspec's does where a server fails for a moment."""

    async def exists(self, key):
        return False

    def list_prefix(self, prefix):
        return _nothing()


async def _nothing():
    for nothing in ():
        yield nothing


def in_memory(folder: Path) -> FsspecStore:
    files = fsspec.filesystem("memory")
    for path in (folder / "dump.zarr").rglob("*"):
        if path.is_file():
            files.pipe_file(f"/rankme-test/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return FsspecStore(AsyncFileSystemWrapper(files, asynchronous=True), path="/rankme-test/dump.zarr")


def wrapped(files: Any) -> FsspecStore:
    return FsspecStore(AsyncFileSystemWrapper(files, asynchronous=True), path="")


def memory_store(folder: Path) -> MemoryStore:
    store = MemoryStore()
    for path in (folder / "dump.zarr").rglob("*"):
        if path.is_file():
            value = zarr.core.buffer.cpu.Buffer.from_bytes(path.read_bytes())
            store._store_dict[path.relative_to(folder / "dump.zarr").as_posix()] = value
    return store


URLS = {
    "file": "file://{}/dump.zarr",
    "local": "local://{}/dump.zarr",
    "simplecache": "simplecache::file://{}/dump.zarr",
    "zip": "zip://::file://{}/dump.zarr.zip",
    "zip, a folder in it": "zip://dump.zarr::file://{}/named.zip",
    "zip, cached": "zip://dump.zarr::simplecache::file://{}/named.zip",
    "references": "reference://::file://{}/refs.json",
    "zip file": "{}/dump.zarr.zip",
}
STORES: dict[str, Callable[[Path], Store]] = {
    "fsspec, no path": lambda folder: wrapped(DirFileSystem(f"{folder}/dump.zarr", LocalFileSystem())),
    "fsspec, zip": lambda folder: wrapped(fsspec.filesystem("zip", fo=f"{folder}/dump.zarr.zip")),
    "fsspec, references": lambda folder: FsspecStore(
        fsspec.filesystem("reference", fo=f"{folder}/refs.json", asynchronous=True)
    ),
    "fsspec, memory": in_memory,
    "memory": memory_store,
    "writable folder": lambda folder: LocalStore(folder / "dump.zarr"),
    "wrapped folder": lambda folder: WrapperStore(LocalStore(folder / "dump.zarr")),
    "logged folder": lambda folder: LoggingStore(LocalStore(folder / "dump.zarr"), log_level="ERROR"),
    "get alone": lambda folder: Bare(folder / "dump.zarr"),
    "exists denies": lambda folder: Denies(LocalStore(folder / "dump.zarr")),
}


def opened(folder: Path, kind: str, array: str = "emb") -> rs.Source:
    if kind in URLS:
        return rs.open_source(f"{URLS[kind].format(folder)}::{array}")
    return rs.open_source(STORES[kind](folder), path=array)


@pytest.fixture(scope="module")
def wanted(folder: Path) -> rs.Measurement:
    return rs.measure(f"{folder}/dump.zarr::emb")


@pytest.mark.parametrize("kind", [*URLS, *STORES])
def test_every_store_gives_the_rows_and_the_bits_of_a_folder(folder, kind, wanted):
    source = opened(folder, kind)
    assert np.array_equal(source.read(0, 600), ROWS)
    assert same_bits(rs.measure(source), wanted)


@pytest.mark.parametrize("kind", [*URLS, *STORES])
def test_every_store_has_its_missing_chunk_found_and_no_other(folder, kind):
    source = opened(folder, kind, "half")
    source.fingerprint(0, 600)
    assert source.missing(0, 600) == [(400, 500)]
    with pytest.raises(MissingChunksError, match=r"half/c/4/0 \(rows 400-499\)"):
        rs.measure(opened(folder, kind, "half"))
    assert rs.measure(opened(folder, kind, "half"), missing="skip").rows_read == 500


@pytest.mark.parametrize("kind", [*URLS, *STORES])
def test_every_store_is_opened_again_or_says_that_it_lives_here(folder, kind):
    argument = opened(folder, kind).reopen()
    assert (argument is None) == (kind in ("memory", "fsspec, memory"))
    if kind in URLS or kind == "writable folder":
        again = rs.open_source(pickle.loads(pickle.dumps(argument)))
        assert np.array_equal(again.read(500, 600), ROWS[500:])


@pytest.mark.parametrize("kind", ["zip", "references", "zip file", "memory", "wrapped folder"])
def test_a_pattern_of_arrays_is_one_dump_in_every_store_that_lists(folder, kind):
    source = opened(folder, kind, "em*")
    assert np.array_equal(source.read(0, 600), ROWS)


@pytest.mark.parametrize("kind", ["references", "fsspec, zip", "get alone", "exists denies"])
def test_many_chunks_are_found_by_listing_or_one_by_one(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("rankme_stream.sources.zarr.auditing_store._STAT_ONE_BY_ONE", 20)
    rows = rows_like(120, 2)
    zarr.create_array(tmp_path / "dump.zarr", name="emb", shape=rows.shape, chunks=(2, 2), dtype="f4")[:] = rows
    shutil.make_archive(str(tmp_path / "dump.zarr"), "zip", tmp_path / "dump.zarr")
    (tmp_path / "refs.json").write_text(json.dumps(references(tmp_path / "dump.zarr")))
    source = opened(tmp_path, kind)
    source.fingerprint(0, 120)
    assert source.chunks_missing == 0


@pytest.mark.parametrize("kind", ["references", "fsspec, zip", "zip file", "local", "fsspec, references"])
def test_a_chunk_written_again_changes_the_fingerprint_although_no_row_of_it_is_drawn(tmp_path, kind):
    found = []
    for values in (ROWS, np.where(np.arange(600)[:, None] // 100 == 2, ROWS[::-1], ROWS)):
        shutil.rmtree(tmp_path / "dump.zarr", ignore_errors=True)
        array = zarr.create_array(
            tmp_path / "dump.zarr", name="emb", shape=ROWS.shape, chunks=(100, 16), dtype="f4", compressors=None
        )
        array[:] = values
        shutil.make_archive(str(tmp_path / "dump.zarr"), "zip", tmp_path / "dump.zarr")
        (tmp_path / "refs.json").write_text(json.dumps(references(tmp_path / "dump.zarr")))
        fsspec.filesystem("zip", fo=f"{tmp_path}/dump.zarr.zip").clear_instance_cache()
        fsspec.filesystem("reference", fo={}).clear_instance_cache()
        found.append(opened(tmp_path, kind).fingerprint(200, 300))
    assert found[0] != found[1]


def test_a_chunk_inside_references_is_read_although_its_text_is_longer_than_it(tmp_path):
    """fsspec states the length of the base64 text for that of the chunk."""
    zarr.create_array(tmp_path / "dump.zarr", name="emb", shape=(6, 2), chunks=(2, 2), dtype="f4", compressors=None)[
        :
    ] = ROWS[:6, :2]
    found = references(tmp_path / "dump.zarr")
    for key in [key for key in found if "/c/" in key]:
        with open(found[key][0], "rb") as file:
            found[key] = f"base64:{base64.b64encode(file.read()).decode()}"
    (tmp_path / "refs.json").write_text(json.dumps(found))
    source = opened(tmp_path, "references")
    source.fingerprint(0, 6)
    assert np.array_equal(source.read(0, 6), ROWS[:6, :2])


def test_references_to_a_file_that_is_gone_are_refused_at_once_and_never_filled(folder, tmp_path):
    shutil.copytree(folder / "dump.zarr", tmp_path / "dump.zarr")
    (tmp_path / "refs.json").write_text(json.dumps(references(tmp_path / "dump.zarr")))
    source = opened(tmp_path, "references")
    (tmp_path / "dump.zarr" / "emb" / "c/2/0").unlink()
    with pytest.raises(SourceError, match=r"emb/c/2/0 of reference://"):
        source.read(0, 600)
    with pytest.raises(SourceError, match=r"emb/c/2/0 of reference://"):
        rs.measure(source, missing="fill")


@pytest.mark.parametrize(
    "address, split",
    [
        ("x.zarr", ("x.zarr", "")),
        ("x.zarr::a/b", ("x.zarr", "a/b")),
        ("a::b.zarr::emb", ("a::b.zarr", "emb")),
        ("s3://b/x.zarr", ("s3://b/x.zarr", "")),
        ("s3://b/x.zarr::emb", ("s3://b/x.zarr", "emb")),
        ("simplecache::s3://b/x.zarr::emb", ("simplecache::s3://b/x.zarr", "emb")),
        ("simplecache::s3://b/x.zarr", ("simplecache::s3://b/x.zarr", "")),
        ("zip://::file:///x.zip", ("zip://::file:///x.zip", "")),
        ("zip://in::simplecache::s3://b/x.zip::emb", ("zip://in::simplecache::s3://b/x.zip", "emb")),
        ("zip://::file:///x.zip::", ("zip://::file:///x.zip", "")),
    ],
)
def test_an_address_is_split_at_the_last_colons_that_no_scheme_follows(address, split):
    assert split_address(address) == split


def test_a_path_of_its_own_leaves_the_address_whole(folder, tmp_path):
    odd = tmp_path / "a::b.zarr"
    shutil.copytree(folder / "dump.zarr", odd)
    source = rs.open_source(str(odd), path="emb")
    assert np.array_equal(source.read(0, 600), ROWS)
    assert np.array_equal(rs.open_source(source.reopen()).read(0, 600), ROWS)
    group = zarr.open_group(folder / "dump.zarr", mode="r")
    assert np.array_equal(rs.open_source(group, path="emb").read(0, 600), ROWS)
    again = rs.open_source(f"file://{folder}/dump.zarr", path="/emb/").reopen()
    assert np.array_equal(rs.open_source(again).read(0, 600), ROWS)
    with pytest.raises(SourceNotFoundError, match=r"there is no .*dump.zarr::emb"):
        rs.open_source(f"{folder}/dump.zarr::emb", path="emb")


@pytest.mark.parametrize(
    "address", ["reference://::/x/refs.json", "zip://x.zip", "zip://x.zip::emb", "zip://::simplecache::zip://x"]
)
def test_a_chain_that_names_no_file_is_refused_with_the_right_form(address):
    with pytest.raises(SourceFormatError, match=r"names no file to read: .*::file:///folder/file::array"):
        rs.open_source(address)


@pytest.mark.parametrize(
    "address",
    ["nothing-of-this-name://x::emb", "zip://::file:///none.zip::emb", "reference://::file:///none.json::emb"],
)
def test_a_url_that_cannot_be_opened_is_an_error_of_ours(address):
    with pytest.raises(RankMeError) as caught:
        rs.open_source(address)
    assert "\n" not in str(caught.value)


def test_references_that_are_no_references_are_refused(tmp_path):
    for text in ("[1, 2]", "{", '{"version": 7}', '{"version": 1, "refs": 3}', "null"):
        path = tmp_path / f"{len(text)}.json"
        path.write_text(text)
        with pytest.raises(RankMeError):
            rs.open_source(f"reference://::file://{path}::emb")


@pytest.mark.parametrize("chain", ["", "simplecache::"])
def test_names_of_stores_and_errors_hold_no_secrets(chain, monkeypatch):
    monkeypatch.setenv(SECONDS, "0.1")
    with pytest.raises(RankMeError) as caught:
        rs.open_source(f"{chain}https://user:pass@127.0.0.1:1/x.zarr?key=1::emb")
    assert "pass" not in str(caught.value) and "key=1" not in str(caught.value)


class LibraryError(Exception):
    """Error of a class that nobody knows."""


class Panic(BaseException):
    """What code in Rust raises on a defect of its own."""


class Broken(WrapperStore[Store]):
    """Store one of whose methods fails in its own way."""

    def __init__(self, store: Store, method: str = "", error: BaseException | None = None) -> None:
        super().__init__(store)
        self._method, self._error = method, error

    def __getattribute__(self, name: str) -> Any:
        if name not in ("_method", "_error") and name == self._method:
            error = self._error

            def fail(*args: Any, **kwargs: Any) -> Any:
                raise error

            return fail
        return super().__getattribute__(name)


@pytest.mark.parametrize("at_once", [1, 1000], ids=["listed", "asked"])
@pytest.mark.parametrize("method", ["get", "exists", "list_prefix", "list_dir", "_ensure_open", "is_empty"])
@pytest.mark.parametrize("error", [LibraryError("odd\ntext"), Panic("odd"), NotImplementedError(), MemoryError()])
def test_no_error_of_a_store_is_not_ours(folder, method, error, at_once, monkeypatch):
    monkeypatch.setenv(SECONDS, "0.02")
    monkeypatch.setattr("rankme_stream.sources.zarr.auditing_store._STAT_ONE_BY_ONE", at_once)
    store = Broken(LocalStore(folder / "dump.zarr"), method, error)
    problems = []
    for array in ("emb", ""):  # the other is a group, whose arrays are listed
        try:
            measured = rs.measure(rs.open_source(store, path=array))
        except RankMeError as problem:
            problems.append(str(problem))
        else:
            assert array == "emb" and measured.rows_read == 600
    assert len(problems) == (2 if method in ("get", "_ensure_open") or len(problems) == 2 else 1)
    assert not any("\n" in problem for problem in problems)


@pytest.mark.parametrize("error", [LibraryError("odd"), Panic("odd"), zipfile.BadZipFile("odd")])
def test_a_chunk_that_a_local_store_fails_to_read_is_refused_with_its_rows(folder, error):
    class Fails(LocalStore):
        async def get(self, key, prototype, byte_range=None):
            if key.endswith("emb/c/2/0"):
                raise error
            return await super().get(key, prototype, byte_range)

    with pytest.raises(CorruptChunkError, match=r"chunk emb/c/2/0 of .*\(rows 200-300\).*odd"):
        rs.measure(rs.open_source(Fails(folder / "dump.zarr"), path="emb"), missing="fill")


def test_a_zip_of_a_named_folder_says_what_is_inside_and_how_it_is_read(folder):
    for address in (f"{folder}/named.zip", f"{folder}/named.zip::emb"):
        with pytest.raises(
            SourceNotFoundError,
            match=r"the zip file holds dump.zarr/emb, dump.zarr/half: use e.g. '.*named.zip::dump.zarr/emb'",
        ):
            rs.open_source(address)
    with pytest.raises(SourceNotFoundError, match=r"use e.g. '.*named.zip::dump.zarr/half'"):
        rs.open_source(f"{folder}/named.zip::half")
    assert np.array_equal(rs.open_source(f"{folder}/named.zip::dump.zarr/emb").read(0, 600), ROWS)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_entries_written_twice_the_last_counts(tmp_path):
    with ZipStore(tmp_path / "x.zip", mode="w") as store:
        array = zarr.create_array(store, name="emb", shape=(200, 16), chunks=(100, 16), dtype="f4")
        array[:] = ROWS[:200] * 7
        array[:] = ROWS[:200]
        array.append(ROWS[200:])
        # Before it is closed, too: the store reads what it has written.
        assert np.array_equal(rs.open_source(zarr.open_array(store, path="emb")).read(0, 600), ROWS)
        assert rs.open_source(array).reopen() is None
    assert np.array_equal(rs.open_source(f"{tmp_path}/x.zip::emb").read(0, 600), ROWS)


def test_a_zip_that_is_cut_is_told_from_a_file_that_is_none(folder, tmp_path):
    (tmp_path / "cut.zip").write_bytes((folder / "dump.zarr.zip").read_bytes()[:-40])
    with pytest.raises(SourceFormatError, match=r"cut.zip is a zip file whose end is missing"):
        rs.open_source(f"{tmp_path}/cut.zip::emb")


@pytest.mark.parametrize("address", ["{}/bad.zip", "zip://::file://{}/bad.zip"])
def test_a_damaged_entry_of_a_zip_is_refused_with_its_rows(folder, tmp_path, address, monkeypatch):
    monkeypatch.setenv(SECONDS, "0.1")
    content = bytearray((folder / "dump.zarr.zip").read_bytes())
    with zipfile.ZipFile(folder / "dump.zarr.zip") as archive:
        entry = archive.getinfo("emb/c/2/0")
    content[entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2] ^= 255
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(SourceError, match=r"emb/c/2/0 of "):
        rs.measure(f"{address.format(tmp_path)}::emb", missing="fill")


def test_a_damaged_document_of_a_zip_is_refused(folder, tmp_path):
    content = bytearray((folder / "dump.zarr.zip").read_bytes())
    with zipfile.ZipFile(folder / "dump.zarr.zip") as archive:
        entry = archive.getinfo("emb/zarr.json")
    content[entry.header_offset + 30 + len(entry.filename) + 5] ^= 255
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(SourceError, match=r"emb/zarr.json of .*bad.zip"):
        rs.open_source(f"{tmp_path}/bad.zip::emb")


def tar_of(folder: Path, name: str, mode: str) -> str:
    with tarfile.open(folder / name, mode) as archive:
        archive.add(folder / "dump.zarr", arcname="dump.zarr")
    return f"tar://dump.zarr::file://{folder}/{name}::emb"


@pytest.mark.parametrize("wrap", [lambda store: store, WrapperStore], ids=["bare", "wrapped"])
def test_members_of_a_tar_file_are_read_in_turns_which_share_one_position_in_it(tmp_path, wrap):
    rows = rows_like(4000, 64)
    zarr.create_array(
        tmp_path / "dump.zarr", name="emb", shape=rows.shape, chunks=(100, 64), dtype="f4", compressors=None
    )[:] = rows
    location, array = split_address(tar_of(tmp_path, "dump.tar", "w"))
    store = wrap(FsspecStore.from_url(location, read_only=True))
    for _ in range(3):
        assert np.array_equal(rs.open_source(store, path=array).read(0, 4000), rows)


def test_attributes_in_a_zip_file_are_not_lost_while_its_index_is_filled(tmp_path, monkeypatch):
    """Without them bit patterns of bfloat16 would be read as integers."""
    array = zarr.create_array(
        tmp_path / "dump.zarr", name="emb", shape=(8, 2), chunks=(8, 2), dtype="u2", zarr_format=2,
        attributes={"dtype": "bfloat16"},
    )  # fmt: skip
    array[:] = np.arange(16).reshape(8, 2)
    shutil.make_archive(str(tmp_path / "dump.zarr"), "zip", tmp_path / "dump.zarr")
    asked = zipfile.ZipInfo.is_dir

    def ask_slowly(self):
        time.sleep(0.01)
        return asked(self)

    monkeypatch.setattr(zipfile.ZipInfo, "is_dir", ask_slowly)
    assert opened(tmp_path, "zip").stored.name == "bfloat16"


@pytest.mark.parametrize(
    "protocol, is_safe", [("file", True), ("memory", True), ("zip", False), ("tar", False), ("simplecache", False)]
)
def test_turns_are_taken_where_threads_would_share_a_file(folder, protocol, is_safe):
    options = {"zip": {"fo": f"{folder}/dump.zarr.zip"}, "simplecache": {"target_protocol": "file"}}
    if protocol == "tar":
        tar_of(folder, "dump.tar", "w")
        options["tar"] = {"fo": f"{folder}/dump.tar"}
    files = fsspec.filesystem(protocol, **options.get(protocol, {}))
    assert needs_turns(wrapped(files)) is not is_safe
    assert needs_turns(WrapperStore(wrapped(files))) is not is_safe
    assert needs_turns(wrapped(DirFileSystem("x", files))) is not is_safe
    assert not needs_turns(MemoryStore())
