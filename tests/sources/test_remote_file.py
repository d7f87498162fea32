"""Files of servers: faults are waited for or refused, two versions never meet, and secrets stay where they are."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec.config
import numpy as np
import pytest
from fsspec import register_implementation
from fsspec.implementations.cached import SimpleCacheFileSystem
from fsspec.implementations.memory import MemoryFileSystem

import rankme_stream as rs
from benchmarks.resilience.object_server import ObjectServer
from rankme_stream.cli.commands import run
from rankme_stream.errors import (
    CorruptChunkError,
    SourceChangedError,
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
    SourcePermissionError,
    StorageError,
)
from rankme_stream.sources.labels import open_labels
from rankme_stream.sources.stores import remote_file
from rankme_stream.sources.stores.attempts import SECONDS
from rankme_stream.sources.stores.remote_file import RemoteFile
from tests.dumps import rows_like, same_bits

ROWS = rows_like(30_000, 16)
SECRET = "X-Amz-Signature=0123abcd"
PASSING = [404, 429, 500, 503, "cut", "reset", "silent", "short", "empty", "page"]
N_BEGINNING = 1  # requests that open a file


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("served")
    (root / "bucket").mkdir()
    np.save(root / "bucket" / "x.npy", ROWS)
    (root / "bucket" / "empty.npy").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ObjectServer]:
    """One server for all tests: fsspec keeps its clients, and with them their endpoint, apart from that of others."""
    variables = {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        SECONDS: "3",
    }  # fmt: skip
    with ObjectServer(root) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": server.url})
        yield server


@pytest.fixture(autouse=True)
def small_parts(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file of two megabytes come in several parts, from a server that is well."""
    monkeypatch.setattr(remote_file, "_PART_BYTES", 2**18)
    server.choose = lambda method, path: None
    server.requests.clear()


@pytest.fixture(params=["http", "s3"])
def address(request: pytest.FixtureRequest, server: ObjectServer) -> str:
    """Address of the folder that is served."""
    return f"{server.url}/bucket" if request.param == "http" else "s3://bucket"


def after(n_requests: int, fault: Any, n_times: int = 10**6) -> Callable[[str, str], Any]:
    """Return a choice of faults: the first requests are answered, so many are not."""
    left = [n_requests]

    def choose(method: str, path: str) -> Any:
        left[0] -= 1
        return fault if -n_times <= left[0] < 0 else None

    return choose


def test_rows_of_a_file_on_a_server_have_the_bits_of_one_here(address: str, root: Path, server: ObjectServer) -> None:
    found = rs.measure(f"{address}/x.npy")
    assert same_bits(found, rs.measure(root / "bucket" / "x.npy"))
    assert found.to_dict()["source"]["uri"] == f"{address}/x.npy"
    server.requests.clear()
    source = rs.open_source(f"{address}/x.npy")
    assert server.requests.total() == N_BEGINNING
    assert np.array_equal(source.read(5, 29_001), ROWS[5:29_001]) and server.requests.total() > 5
    reopened = rs.open_source(source.reopen())
    assert reopened.fingerprint(0, 9) == source.fingerprint(0, 9)


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_changes_nothing(
    address: str, server: ObjectServer, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = rs.open_source(f"{address}/x.npy")
    monkeypatch.setenv(SECONDS, "1.5")
    server.choose = after(2, fault, 2)
    assert np.array_equal(source.read(0, 30_000), ROWS)


@pytest.mark.parametrize("fault", [404, 503, "cut", "silent", "short"])
def test_a_fault_that_stays_ends_within_its_time(
    address: str, server: ObjectServer, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = rs.open_source(f"{address}/x.npy")
    server.choose = after(3, fault)
    monkeypatch.setenv(SECONDS, "0.3")
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"x\.npy cannot be read: .*the server fails") as caught:
        source.read(0, 30_000)
    assert time.monotonic() - began < 20 and caught.value.exit_code == 5 and "\n" not in str(caught.value)


def test_what_is_not_there_or_not_permitted_is_told_at_once(address: str, server: ObjectServer) -> None:
    with pytest.raises(SourceNotFoundError, match=r"there is no file .*/none\.npy: check the address"):
        rs.open_source(f"{address}/none.npy")
    server.choose = lambda method, path: 403
    with pytest.raises(SourcePermissionError, match=r"403 Forbidden.*credentials"):
        rs.open_source(f"{address}/denied.npy")
    n_requests = [server.requests["GET", f"bucket/{name}.npy"] for name in ("none", "denied")]
    assert max(n_requests) <= 2  # aiohttp repeats one on a connection that was closed meanwhile
    server.choose = lambda method, path: None
    with pytest.raises(SourceFormatError, match="it is empty"):
        rs.open_source(f"{address}/empty.npy")


def test_a_file_that_changes_is_refused(address: str, server: ObjectServer, root: Path, tmp_path: Path) -> None:
    path = root / "bucket" / "changing.npy"
    np.save(path, ROWS)
    source = rs.open_source(f"{address}/changing.npy")
    source.fingerprint(0, 1)
    server.choose = after(1, "changed")
    with pytest.raises(SourceChangedError, match=r"changing\.npy changed since it was opened"):
        source.read(0, 30_000)
    server.choose = lambda method, path: None
    np.save(path, ROWS[::-1])
    with pytest.raises(SourceChangedError, match=r"changing\.npy changed since it was opened"):
        source.fingerprint(0, 1)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorruptChunkError, match="truncated"):
        rs.open_source(f"{address}/changing.npy")


def test_a_signature_in_the_query_reads_the_file_and_appears_nowhere(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server.url}/bucket/x.npy?{SECRET}"
    state = tmp_path / "x.state"
    found = rs.measure(url, checkpoint=state)
    told = found.to_json() + str(found) + found._repr_html_() + json.dumps(rs.plan(url).to_dict())
    assert found.rows_read == len(ROWS) and "0123abcd" not in told and b"0123abcd" not in state.read_bytes()
    monkeypatch.setenv(SECONDS, "0.2")
    for fault in (403, 404, 500, "cut", "page"):
        server.choose = lambda method, path, fault=fault: fault
        with pytest.raises(rs.RankMeError) as caught:
            rs.open_source(url)
        assert "0123abcd" not in str(caught.value)


def test_a_server_without_ranges_is_refused_and_read_by_way_of_a_cache(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.resilience.object_server.KNOWS_RANGES", False)
    with pytest.raises(SourceError, match=r"knows ranges.*'simplecache::'") as caught:
        rs.open_source(f"{server.url}/bucket/x.npy")
    assert caught.value.exit_code == 3
    SimpleCacheFileSystem.clear_instance_cache()
    source = rs.open_source(f"simplecache::{server.url}/bucket/x.npy")
    assert np.array_equal(source.read(7, 29_000), ROWS[7:29_000])


class Sizeless(MemoryFileSystem):
    """File system that does not know how long its files are, as of a server that sends them in pieces."""

    protocol = "sizeless"

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return super().info(path, **options) | {"size": None}


def test_a_file_of_unknown_length_is_refused_and_not_cut_after_its_beginning() -> None:
    register_implementation("sizeless", Sizeless, clobber=True)
    for n_rows in (10, len(ROWS)):  # shorter and longer than what is read first
        Sizeless().pipe_file("sizeless://x.bin", ROWS[:n_rows].tobytes())
        with pytest.raises(SourceError, match="does not state how long the file is"):
            rs.open_source("sizeless://x.bin", dtype=ROWS.dtype.name, width=16)


def test_a_server_that_states_no_version_has_one_by_the_bytes(
    server: ObjectServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.resilience.object_server.STATES_VERSIONS", False)
    path = root / "bucket" / "unstated.npy"
    np.save(path, ROWS)
    file = RemoteFile(f"{server.url}/bucket/unstated.npy")
    before = file.stamp()
    assert file.stamp() == before
    other = ROWS.copy()
    other[-1, -1] += 1
    np.save(path, other)
    assert file.stamp() != before


def test_no_command_prints_or_keeps_a_secret(server, root, tmp_path, capsys):
    url = f"{server.url.replace('//', '//user:hunter2@')}/bucket/x.npy?{SECRET}"
    commands = [
        ["inspect", url], ["plan", url], ["score", url, f"{url}x", "--checkpoint", f"{tmp_path}/states"],
        ["score", url, "--json", f"{tmp_path}/score.json"], ["inspect", url, "--json", f"{tmp_path}/inspect.json"],
        ["segment", url, "--part", "0/1", "--state", f"{tmp_path}/part.state"], ["compare", url, url],
        ["compare", url, f"{root}/bucket/x.npy", url.replace("x.npy", "y.npy"), "--json", f"{tmp_path}/both.json"],
        ["convert", url, f"{tmp_path}/copy.zarr", "--json", f"{tmp_path}/copy.json"], ["convert", url, url],
    ]  # fmt: skip
    assert [run(command) for command in commands] == [0, 0, 0, 0, 0, 0, 2, 3, 0, 2]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 7
    shown = "".join([*capsys.readouterr(), *(f"{path} {path.read_bytes()!r}" for path in files)])
    assert "127.0.0.1" in shown and "hunter2" not in shown and "0123abcd" not in shown


def test_labels_are_read_through_a_signed_address(server, root):
    np.save(root / "bucket" / "labels.npy", np.arange(7))
    (root / "bucket" / "labels.csv").write_text("n\n" + "\n".join(map(str, range(7))) + "\n")
    for name in (f"labels.npy?{SECRET}", f"labels.csv?{SECRET}::n"):
        labels = open_labels(f"{server.url}/bucket/{name}")
        assert labels.n_rows == 7 and "0123abcd" not in labels.uri
