"""Servers that fail: requests are tried again, numbers do not change, and a fault is told as what it is."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import fsspec.config
import numpy as np
import pytest
import zarr
from fsspec.implementations.cached import SimpleCacheFileSystem
from fsspec.registry import _registry
from zarr.storage import FsspecStore, LocalStore, WrapperStore

import rankme_stream as rs
from benchmarks.resilience.object_server import ObjectServer
from rankme_stream.errors import (
    CorruptChunkError,
    MissingChunksError,
    SourceChangedError,
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
    SourcePermissionError,
    StorageError,
    UsageError,
)
from rankme_stream.sources import ZarrSource
from rankme_stream.sources.labels import open_labels
from rankme_stream.sources.stores.attempts import SECONDS
from tests.dumps import rows_like, same_bits, store

SECONDS_A_REQUEST = 0.4  # where a fault stays
SECONDS_FOR_SOUND_ANSWERS = 3  # on a busy machine
ROWS = rows_like(600, 16)
CHUNK = "c/2/0"  # of six: rows 200-299
PASSING = [429, 500, 502, 503, 504, "cut", "reset", "silent", "short", "empty", "page", "flipped"]
BUCKETS = ["bucket", *(f"bucket-{fault}" for fault in (403, 404, *PASSING))]  # alike: several faults at once


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Folder of the server, whose one bucket holds the stores."""
    root: Path = tmp_path_factory.mktemp("served")
    bucket = root / "bucket"
    store(bucket / "plain.zarr", ROWS, 100)
    store(bucket / "shards.zarr", ROWS, 20, shards=(100, 16))
    store(bucket / "raw.zarr", ROWS, 100, compressors=None)
    zarr.create_array(bucket / "labels.zarr", shape=(600,), chunks=(100,), dtype="i8")[:] = np.arange(600) % 3
    zarr.create_array(bucket / "v2.zarr", shape=ROWS.shape, chunks=(100, 16), dtype="f4", zarr_format=2)[:] = ROWS
    for name in BUCKETS[1:]:
        (root / name).symlink_to(bucket)
    return root


@pytest.fixture(scope="module")
def server(root) -> Iterator[ObjectServer]:
    """One server for all tests: fsspec keeps its clients, and with them their endpoint."""
    variables = {
        SECONDS: str(SECONDS_FOR_SOUND_ANSWERS), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }  # fmt: skip
    with ObjectServer(root) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in (variables | {"AWS_ENDPOINT_URL": server.url}).items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def hurry(server, monkeypatch) -> Callable[[], None]:
    """End requests that are tried again soon from now on: after a store is opened with time for answers that are sound.

    A request that a busy machine answers late is not one that failed, because a server may be silent as long as before.
    """
    return lambda: monkeypatch.setenv(SECONDS, str(SECONDS_A_REQUEST))


@pytest.fixture
def serve(server) -> Callable[..., ObjectServer]:
    """Let the server answer so from now on."""

    def answer_so(choose=None, *, states_checksums: bool = True, pause_s: float = 0.0) -> ObjectServer:
        server.choose = choose or (lambda method, path: None)
        server.states_checksums, server.pause_s = states_checksums, pause_s
        server.requests.clear()
        return server

    return answer_so


def uri(server: ObjectServer, protocol: str, name: str = "plain.zarr", bucket: str = "bucket") -> str:
    if protocol == "s3":
        pytest.importorskip("s3fs")
        return f"s3://{bucket}/{name}"
    pytest.importorskip("aiohttp")
    return f"{server.url}/{bucket}/{name}"


def at_once(faults: Iterable[object], check: Callable[[object], None]) -> None:
    """Check several faults at once, since each waits for its server; a failure names its fault."""
    with ThreadPoolExecutor(20) as pool:
        pending = {fault: pool.submit(check, fault) for fault in faults}
    for fault, done in pending.items():
        if (error := done.exception()) is not None:
            error.add_note(f"the fault: {fault}")
            raise error


def in_bucket(choices):
    """Return what answers in the bucket of each fault as the choice of this fault says."""
    chosen = {f"bucket-{fault}": choose for fault, choose in choices.items()}
    return lambda method, path: chosen[path.partition("/")[0]](method, path)


def always(fault, key: str = CHUNK, methods: tuple[str, ...] = ("GET",)):
    return lambda method, path: fault if method in methods and path.endswith(key) else None


def first(n_times: int, fault, key: str = CHUNK, methods: tuple[str, ...] = ("GET",)):
    left = [n_times]

    def choose(method, path):
        left[0] -= method in methods and path.endswith(key)
        return fault if method in methods and path.endswith(key) and left[0] >= 0 else None

    return choose


@pytest.fixture(params=["http", "s3"])
def protocol(request) -> str:
    return str(request.param)


@pytest.mark.parametrize("name", ["plain.zarr", "shards.zarr", "raw.zarr", "v2.zarr"])
def test_rows_on_a_server_have_the_bits_of_rows_in_a_folder(serve, root, protocol, name):
    wanted = rs.measure(root / "bucket" / name)
    assert same_bits(rs.measure(uri(serve(), protocol, name)), wanted)


def test_a_fault_that_passes_changes_nothing(serve, protocol):
    faults = (404, *PASSING)
    server = serve(in_bucket({fault: first(1, fault) for fault in faults}))

    def check(fault):
        source = ZarrSource(uri(server, protocol, bucket=f"bucket-{fault}"))
        assert np.array_equal(source.read(0, 600), ROWS)

    at_once(faults, check)


def test_a_fault_that_passes_changes_nothing_in_a_part_of_a_shard(serve, protocol):
    faults = ("cut", "short", "empty", "page", 500)
    server = serve(in_bucket({fault: first(2, fault) for fault in faults}))

    def check(fault):
        source = ZarrSource(uri(server, protocol, "shards.zarr", f"bucket-{fault}"))
        assert np.array_equal(source.read(230, 250), ROWS[230:250])

    at_once(faults, check)


def test_a_fault_that_stays_is_the_storage_s_and_ends_within_its_time(serve, protocol, hurry):
    faults = (404, *PASSING)
    server = serve(in_bucket({fault: always(fault) for fault in faults}))
    sources = {fault: ZarrSource(uri(server, protocol, bucket=f"bucket-{fault}")) for fault in faults}
    hurry()

    def check(fault):
        began = time.monotonic()
        with pytest.raises(StorageError, match=rf"{CHUNK} of .* cannot be read: .*{SECONDS} \(now 0.4\)") as caught:
            sources[fault].read(200, 300)
        assert time.monotonic() - began < 20.0  # by default it would be 60 s; a busy machine takes its time
        assert caught.value.exit_code == 5
        assert "decode" not in str(caught.value) and "\n" not in str(caught.value)

    at_once(faults, check)


def test_a_slow_body_that_keeps_coming_is_waited_for(serve, protocol):
    """It takes longer than a server may be silent, so it would never arrive otherwise."""
    server = serve(always("slow"), pause_s=0.3)
    assert np.array_equal(ZarrSource(uri(server, protocol)).read(200, 300), ROWS[200:300])


@pytest.mark.parametrize("fault", ["short", "empty"])
def test_a_body_that_is_cut_and_stated_so_is_the_storage_s_fault_by_its_own_account(serve, fault, hurry):
    source = ZarrSource(uri(serve(always(fault), states_checksums=False), "http"))
    hurry()
    with pytest.raises(StorageError, match=r"c/2/0 of .* sends [\d,]+ bytes of [\d,]+; the server fails"):
        source.read(0, 600)


def test_missing_rows_are_skipped_or_filled_only_where_the_server_says_that_they_are(serve, protocol, hurry):
    faults = (403, 404, 500)
    server = serve(in_bucket({fault: always(fault) for fault in faults}))
    rules = [(fault, missing) for fault in faults for missing in ("error", "skip", "fill")]
    sources = {rule: ZarrSource(uri(server, protocol, bucket=f"bucket-{rule[0]}")) for rule in rules}
    hurry()

    def check(rule):
        with pytest.raises((StorageError, SourcePermissionError)):
            rs.measure(sources[rule], missing=rule[1])

    at_once(rules, check)


def test_a_description_that_is_refused_is_no_missing_chunk(serve, protocol, hurry):
    faults = (403, 500)
    server = serve(in_bucket({fault: always(fault, methods=("GET", "HEAD")) for fault in faults}))
    sources = {fault: ZarrSource(uri(server, protocol, bucket=f"bucket-{fault}")) for fault in faults}
    hurry()

    def check(fault):
        with pytest.raises((StorageError, SourcePermissionError)):
            rs.measure(sources[fault], missing="skip")

    at_once(faults, check)


def test_a_chunk_that_is_absent_by_all_accounts_is_missing(serve, protocol):
    found = uri(serve(always(404, methods=("GET", "HEAD"))), protocol)
    with pytest.raises(MissingChunksError):
        rs.measure(found)
    assert rs.measure(found, missing="skip").rows_read == 500


def test_403_is_not_tried_again_and_its_remedy_is_the_user_s(serve, protocol):
    server = serve(always(403))
    with pytest.raises(SourcePermissionError, match=r"c/2/0 of .* 403 Forbidden.*credentials.*may also be absent"):
        ZarrSource(uri(server, protocol)).read(0, 600)
    assert server.requests["GET", f"bucket/plain.zarr/{CHUNK}"] == 1


def test_a_format_that_is_denied_does_not_hide_the_other(serve, protocol):
    """Servers that may not list answer 403 for what is absent."""
    server = serve(lambda method, path: 403 if path.endswith(("zarr.json", ".zgroup")) else None)
    assert np.array_equal(ZarrSource(uri(server, protocol, "v2.zarr")).read(0, 600), ROWS)
    with pytest.raises(SourcePermissionError, match=r"403 Forbidden"):
        ZarrSource(uri(server, protocol, "plain.zarr"))


def test_permission_that_ends_during_a_pass_is_told_as_such(serve, protocol):
    server = serve()
    source = ZarrSource(uri(server, protocol))
    source.read(0, 600)
    server.choose = always(403, "zarr.json")
    with pytest.raises(SourcePermissionError, match=r"zarr.json of .* 403 Forbidden"):
        source.fingerprint(0, 600)


def test_attributes_that_are_denied_are_not_taken_for_absent(serve, protocol):
    """They may say how the numbers are to be read."""
    with pytest.raises(SourcePermissionError, match=r"\.zattrs"):
        ZarrSource(uri(serve(always(403, ".zattrs")), protocol, "v2.zarr"))


def test_metadata_that_a_server_fails_to_send_are_the_storage_s_fault(serve, protocol, monkeypatch):
    faults = (500, "cut")
    server = serve(in_bucket({fault: first(2, fault, "zarr.json") for fault in faults}))

    def opened(fault):
        return ZarrSource(uri(server, protocol, bucket=f"bucket-{fault}"))

    def passes(fault):
        assert opened(fault).shape == (600, 16)

    def stays(fault):
        with pytest.raises(StorageError, match=r"zarr.json of "):
            opened(fault)

    at_once(faults, passes)
    monkeypatch.setenv(SECONDS, "1.2")  # also of the documents that are sent
    serve(in_bucket({fault: always(fault, "zarr.json") for fault in faults}))
    at_once(faults, stays)


def test_what_is_not_there_is_not_found(serve, protocol):
    with pytest.raises(SourceNotFoundError, match=r"there is no zarr array at .*none\.zarr"):
        ZarrSource(uri(serve(), protocol, "none.zarr"))


def test_a_chunk_whose_tag_changes_within_one_read_has_changed(serve, protocol):
    source = ZarrSource(uri(serve(always("changed")), protocol, "shards.zarr"))
    with pytest.raises(SourceChangedError, match=r"c/2/0 of .* changed while it was read"):
        source.read(230, 250)


def test_a_server_that_wants_a_longer_wait_than_there_is_time_is_not_asked_again(serve, monkeypatch):
    server = serve(always(429))
    monkeypatch.setattr("benchmarks.resilience.object_server.RETRY_AFTER", "3600")
    with pytest.raises(
        StorageError, match=r"429 Too Many Requests \(1 attempt in .*, and wants 3600 s before the next\)"
    ):
        ZarrSource(uri(server, "http")).read(0, 600)


def test_an_endpoint_that_is_down_is_named_with_its_remedy(serve, protocol, monkeypatch, hurry):
    server = serve()
    hurry()
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": "http://127.0.0.1:1"})
    address = "s3://bucket/plain.zarr" if protocol == "s3" else "http://user:secret@127.0.0.1:1/plain.zarr"
    uri(server, protocol)  # skips where the protocol's package is not installed
    with pytest.raises(
        StorageError, match=r"cannot be reached: .*check that the server runs and its address"
    ) as caught:
        ZarrSource(address)
    assert "secret" not in str(caught.value)


def test_missing_credentials_are_named_with_their_remedy(serve, monkeypatch):
    server = serve()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"use_ssl": False})  # another client than that with credentials
    address = uri(server, "s3")
    with pytest.raises(SourcePermissionError, match=r"no credentials for .*s3://bucket.*AWS_PROFILE.*FSSPEC_S3_ANON"):
        ZarrSource(address)


@pytest.mark.parametrize(
    "address, remedy", [("s3://b/x", "'rankme-stream[s3]'"), ("http://h/x", "'rankme-stream[http]'")]
)
def test_a_package_that_is_not_installed_is_named_with_its_command(address, remedy, monkeypatch):
    monkeypatch.delitem(_registry, "s3", raising=False)
    for module in ("s3fs", "aiohttp"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SourceFormatError, match=r"pip install") as caught:
        ZarrSource(address)
    assert remedy in str(caught.value)


def test_labels_on_a_server_are_read_and_their_faults_told(serve, protocol, hurry):
    found = open_labels(uri(serve(first(1, 500, "c/1")), protocol, "labels.zarr")).read(0, 600)
    assert np.array_equal(found, np.arange(600) % 3)
    labels = open_labels(uri(serve(always(500, "c/1")), protocol, "labels.zarr"))
    hurry()
    with pytest.raises(StorageError):
        labels.read(0, 600)


def test_a_pass_that_ends_on_a_server_s_fault_keeps_its_checkpoint(serve, protocol, root, tmp_path, monkeypatch, hurry):
    state, failing = tmp_path / "pass.state", [True]

    def choose(method, path):
        """Fail once the pass has begun, which the file shows."""
        return 503 if failing[0] and state.exists() and path.endswith("c/5/0") and method == "GET" else None

    address = uri(serve(choose), protocol)
    source = ZarrSource(address)
    hurry()
    with pytest.raises(StorageError) as caught:
        rs.measure(source, checkpoint=state)
    assert "the same command goes on from there" in " ".join(caught.value.__notes__)
    failing[0] = False
    monkeypatch.setenv(SECONDS, str(SECONDS_FOR_SOUND_ANSWERS))
    assert same_bits(rs.measure(address, checkpoint=state), rs.measure(root / "bucket" / "plain.zarr"))


@pytest.mark.parametrize("text", ["x", "0", "-1", "nan", "inf", "1e9"])
def test_a_time_that_is_none_is_refused(text, monkeypatch):
    monkeypatch.setenv(SECONDS, text)
    with pytest.raises(UsageError, match=SECONDS):
        ZarrSource("http://127.0.0.1:1/x")


class FailsOn(LocalStore):
    """Folder on a disk or network file system that fails for one chunk."""

    number = errno.EIO

    async def get(self, key, prototype, byte_range=None):
        if key.endswith(CHUNK):
            raise OSError(self.number, "failed")
        return await super().get(key, prototype, byte_range)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_is_no_damaged_chunk(root, number, monkeypatch):
    monkeypatch.setattr(FailsOn, "number", number)
    source = ZarrSource(zarr.open_array(FailsOn(root / "bucket" / "plain.zarr"), mode="r"))
    with pytest.raises(StorageError, match=rf"{CHUNK} of .* cannot be read"):
        source.read(0, 600)


@pytest.mark.parametrize("name", ["plain.zarr", "shards.zarr", "raw.zarr"])
def test_a_file_that_cannot_be_read_is_no_damaged_chunk(root, name, monkeypatch):
    source = ZarrSource(root / "bucket" / name)

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(StorageError, match=rf"chunk c/0/0 .*of .*{name}.* cannot be read, because the storage fails"):
        source.read(0, 600)


class ReadError(Exception):
    """Error of a library that nobody knows."""


class Unknown(WrapperStore[LocalStore]):
    """Store of some library, which fails a few times in its own way."""

    error: Exception = ReadError("it went wrong")
    failures = 2

    async def get(self, key, prototype, byte_range=None):
        if key.endswith(CHUNK) and self.failures:
            self.failures -= 1
            raise self.error
        return await self._store.get(key, prototype, byte_range)


def unknown(root: Path, monkeypatch) -> ZarrSource:
    monkeypatch.setenv(SECONDS, str(SECONDS_A_REQUEST))
    array = zarr.open_array(LocalStore(root / "bucket" / "plain.zarr", read_only=True), mode="r")
    store = Unknown(array.store_path.store)
    return ZarrSource(zarr.open_array(store, mode="r"))


def test_an_unknown_store_is_tried_again_and_its_faults_are_no_damage(root, monkeypatch):
    assert np.array_equal(unknown(root, monkeypatch).read(0, 600), ROWS)
    monkeypatch.setattr(Unknown, "failures", 10**6)
    with pytest.raises(StorageError, match=r"c/2/0 of .*ReadError: it went wrong"):
        unknown(root, monkeypatch).read(0, 600)
    monkeypatch.setattr(Unknown, "error", TimeoutError("no answer"))
    with pytest.raises(StorageError, match=r"TimeoutError: no answer"):
        unknown(root, monkeypatch).read(0, 600)
    monkeypatch.setattr(Unknown, "error", ValueError("a key that cannot be"))
    with pytest.raises(SourceError, match=r"c/2/0 of .*ValueError: a key that cannot be"):
        unknown(root, monkeypatch).read(0, 600)


def chained(server: ObjectServer, name: str, bucket: str = "bucket") -> rs.Source:
    SimpleCacheFileSystem.clear_instance_cache()  # with what an earlier test left in it
    return rs.open_source(f"simplecache::{uri(server, 'http', name, bucket)}")


def wrapped(server: ObjectServer, name: str, bucket: str = "bucket") -> rs.Source:
    """Return a store that hides its file system, whose `exists` calls any failed request an absence."""
    return rs.open_source(WrapperStore(FsspecStore.from_url(uri(server, "http", name, bucket), read_only=True)))


@pytest.mark.parametrize("fault", [429, 500, 503, "cut", "reset"])
@pytest.mark.parametrize("opened", [chained, wrapped])
def test_a_store_handed_in_or_cached_is_tried_again(serve, opened, fault):
    source = opened(serve(first(2, fault)), "plain.zarr")
    is_kept = opened is chained and fault in ("cut", "reset")  # a cache may keep, and return, what came of a body
    with suppress(StorageError) if is_kept else nullcontext():
        assert np.array_equal(source.read(0, 600), ROWS)


@pytest.mark.parametrize("opened", [chained, wrapped])
def test_a_fault_that_stays_is_no_missing_chunk_of_a_store_handed_in_or_cached(serve, opened, hurry):
    faults = (403, 500, 503, "cut")
    server = serve(in_bucket({fault: always(fault, methods=("GET", "HEAD")) for fault in faults}))
    sources = {fault: opened(server, "plain.zarr", f"bucket-{fault}") for fault in faults}
    hurry()

    def check(fault):
        with pytest.raises((StorageError, SourceError), match=r"c/2/0 of "):
            rs.measure(sources[fault], missing="fill", rows=(200, 300))

    at_once(faults, check)


@pytest.mark.parametrize("opened", [chained, wrapped])
def test_a_chunk_that_is_absent_is_missing_in_a_store_handed_in_or_cached(serve, opened):
    source = opened(serve(always(404, methods=("GET", "HEAD"))), "plain.zarr")
    # On a busy machine a cache has been seen to return an empty file for what is absent: that is refused.
    with suppress(CorruptChunkError) if opened is chained else nullcontext():
        assert rs.measure(source, missing="skip").rows_read == 500


def test_a_chain_that_cannot_be_opened_is_tried_again(serve, root, tmp_path):
    """fsspec reads the end of a zip file when it opens it."""
    shutil.make_archive(str(root / "bucket" / "packed"), "zip", root / "bucket" / "plain.zarr")
    source = rs.open_source(f"zip://::{uri(serve(first(1, 503, 'packed.zip')), 'http', 'packed.zip')}")
    assert np.array_equal(source.read(0, 600), ROWS)
