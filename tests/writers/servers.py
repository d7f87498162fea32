"""Real servers on loopback: S3 as moto serves it, by s3fs and by obstore, and files as Python serves them by HTTP."""

from __future__ import annotations

import functools
import http.server
import io
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import fsspec.config
import numpy as np
import obstore
import pytest
import zarr
from moto.server import ThreadedMotoServer
from zarr.storage import ObjectStore

import rankme_stream as rs
from benchmarks.resilience.object_server import ObjectServer
from rankme_stream.sources.stores.attempts import SECONDS
from tests.writers.frame import CHUNK, N_FEATURES, check, rows_of

ROWS = rows_of()
ARRAYS = ("plain", "shards", "v2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the stores that are served, and one of them in a zip file."""
    folder = tmp_path_factory.mktemp("served")
    group = zarr.open_group(folder / "x.zarr", mode="w")
    group.create_array("plain", shape=ROWS.shape, chunks=(CHUNK, N_FEATURES), dtype="f4")[:] = ROWS
    group.create_array(
        "shards", shape=ROWS.shape, chunks=(20, N_FEATURES), shards=(CHUNK, N_FEATURES), dtype="f4"
    )[:] = ROWS  # fmt: skip
    group.create_array("half", shape=ROWS.shape, chunks=(CHUNK, N_FEATURES), dtype="f4")[:300] = ROWS[:300]
    zarr.create_array(
        folder / "x.zarr" / "v2", shape=ROWS.shape, chunks=(CHUNK, N_FEATURES), dtype="f4", zarr_format=2
    )[:] = ROWS  # fmt: skip
    shutil.make_archive(str(folder / "x"), "zip", folder / "x.zarr")
    return folder


@pytest.fixture(scope="module")
def s3(folder: Path) -> Iterator[str]:
    """Endpoint of a server whose bucket holds the folder."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    endpoint = f"http://{address}:{port}"
    variables = {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull, SECONDS: "5",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for path in folder.rglob("*"):
            if path.is_file():
                client.put_object(Bucket="bucket", Key=path.relative_to(folder).as_posix(), Body=path.read_bytes())
        yield endpoint
    server.stop()


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[str]:
    """Address of the folder on a server that knows no ranges and lists by web pages, as Python's own."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def by_obstore(endpoint: str) -> ObjectStore[Any]:
    store = obstore.store.S3Store(
        "bucket", prefix="x.zarr", endpoint=endpoint, region="us-east-1", access_key_id="a", secret_access_key="b",
        client_options={"allow_http": True}, virtual_hosted_style_request=False,
    )  # fmt: skip
    return ObjectStore(store, read_only=True)


@pytest.mark.parametrize("array", ARRAYS)
def test_rows_in_a_bucket_are_read_to_the_same_bits(s3: str, array: str) -> None:
    check(f"s3://bucket/x.zarr::{array}", ROWS)
    check("s3://bucket/x.zarr", ROWS, path=array)
    check(by_obstore(s3), ROWS, path=array)


@pytest.mark.parametrize("chain", ["simplecache::s3://bucket/x.zarr", "zip://::s3://bucket/x.zip"])
def test_chains_of_urls_that_end_in_a_bucket_are_read_to_the_same_bits(s3: str, chain: str) -> None:
    check(f"{chain}::plain", ROWS)


@pytest.mark.parametrize("array", ["plain", "v2"])
def test_rows_on_a_web_server_are_read_to_the_same_bits(web: str, array: str) -> None:
    check(f"{web}/x.zarr::{array}", ROWS)
    check(f"simplecache::{web}/x.zarr::{array}", ROWS)
    check(from_web(web), ROWS, path=array)


def test_shards_on_a_server_without_ranges_are_refused_with_the_remedy(web: str) -> None:
    with pytest.raises(rs.RankMeError, match=r"knows ranges"):
        rs.measure(f"{web}/x.zarr::shards")


@pytest.mark.parametrize("credentials", ["environment", "profile", "anonymous"])
@pytest.mark.parametrize("has_obstore", [True, False])
def test_files_in_a_bucket_are_one_dump_with_the_credentials_that_s3fs_finds(
    s3: str, credentials: str, has_obstore: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.client("s3")
    for number in range(12):
        part = io.BytesIO()
        np.save(part, ROWS[number * 50 : number * 50 + 50])
        client.put_object(Bucket="bucket", Key=f"dump/part_{number}.npy", Body=part.getvalue(), ACL="public-read")
    client.put_object(Bucket="bucket", Key="dump/_SUCCESS", Body=b"")
    options: dict[str, Any] = {"endpoint_url": s3}
    if credentials == "anonymous":
        options["anon"] = True
    if credentials == "profile":
        (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = a\naws_secret_access_key = b\n")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        options["profile"] = "mine"
    if not has_obstore:
        options["use_ssl"] = False  # another client, of which nothing is known
        monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    asked, get = [], obstore.get
    monkeypatch.setattr(
        obstore, "get", lambda store, path, **options: asked.append(path) or get(store, path, **options)
    )
    for address in ("s3://bucket/dump", "s3://bucket/dump/part_*.npy"):
        check(address, ROWS)
    assert "_SUCCESS" in rs.open_source("s3://bucket/dump").remarks[0]
    assert bool(asked) == has_obstore


def test_chunks_that_were_never_written_are_missing_and_no_others(s3: str, web: str) -> None:
    for source, options in (
        ("s3://bucket/x.zarr::half", {}), (f"{web}/x.zarr::half", {}), (by_obstore(s3), {"path": "half"}),
    ):  # fmt: skip
        opened = rs.open_source(source, **options)
        with pytest.raises(rs.RankMeError, match=r"chunk half/c/3/0 \(rows 300-599\) is missing, 3 in all"):
            rs.measure(opened)
        assert rs.measure(rs.open_source(source, **options), missing="skip").rows_read == 300


def test_an_object_written_again_is_another_fingerprint(s3: str, folder: Path) -> None:
    client = boto3.client("s3")
    for source, options in (("s3://bucket/x.zarr::plain", {}), (by_obstore(s3), {"path": "plain"})):
        opened = rs.open_source(source, **options)
        before = opened.fingerprint(0, 600)
        other = (folder / "x.zarr/plain/c/1/0").read_bytes()
        kept = (folder / "x.zarr/plain/c/2/0").read_bytes()
        client.put_object(Bucket="bucket", Key="x.zarr/plain/c/2/0", Body=other)
        assert opened.fingerprint(0, 600) != before
        client.put_object(Bucket="bucket", Key="x.zarr/plain/c/2/0", Body=kept)


@pytest.mark.parametrize("fault", [500, 503, "cut", "reset"])
def test_a_fault_that_passes_changes_nothing_by_obstore(folder: Path, fault: Any) -> None:
    with ObjectServer(folder, fails(2, fault)) as server:
        check(from_web(server.url), ROWS, path="plain")


@pytest.mark.parametrize("fault", [403, 500, 503, "cut", "reset"])
def test_a_fault_that_stays_is_no_missing_chunk_by_obstore(folder: Path, fault: Any) -> None:
    retry = {"max_retries": 1, "retry_timeout": timedelta(seconds=1)}
    with pytest.MonkeyPatch.context() as patch, ObjectServer(folder) as server:
        patch.setenv(SECONDS, "0.5")
        source = rs.open_source(from_web(server.url, retry_config=retry), path="plain")
        server.choose = fails(10**6, fault)
        with pytest.raises(rs.RankMeError, match=r"plain/c/2/0 of ") as caught:
            rs.measure(source, missing="fill")
        assert caught.value.exit_code == (3 if fault == 403 else 5) and "\n" not in str(caught.value)


def from_web(url: str, **options: Any) -> ObjectStore[Any]:
    return ObjectStore(obstore.store.HTTPStore(f"{url}/x.zarr", client_options={"allow_http": True}, **options))


def fails(n_times: int, fault: Any) -> Callable[[str, str], Any]:
    left = [n_times]

    def choose(method: str, path: str) -> Any:
        left[0] -= path.endswith("plain/c/2/0")
        return fault if path.endswith("plain/c/2/0") and left[0] >= 0 else None

    return choose


@pytest.mark.parametrize("missing", ["error", "fill"])
def test_a_bucket_that_is_not_there_and_a_server_that_is_down_are_told(s3: str, missing: str) -> None:
    with pytest.raises(rs.RankMeError):
        rs.measure("s3://no-such-bucket/x.zarr::plain", missing=missing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECONDS, "0.5")
        with pytest.raises(rs.RankMeError) as caught:
            rs.measure("http://127.0.0.1:1/x.zarr::plain", missing=missing)
        assert caught.value.exit_code == 5
