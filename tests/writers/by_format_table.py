"""Every format on a disk, in S3 as moto serves it, and on a web server gives the bits of memory; so does a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from benchmarks.harness.stored_formats import STORED_FORMATS
from benchmarks.resilience.object_server import ObjectServer
from rankme_stream.sources.stores.attempts import SECONDS
from tests.formats_table import (
    WIDE,
    all_formats,
    check,
    check_cluster,
    check_passes,
    cluster,
    write_shards,
    write_whole,
)

pytestmark = [WIDE, pytest.mark.parametrize("name", all_formats())]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the matrix in every format, whole and in shards."""
    root = tmp_path_factory.mktemp("formats")
    for name in all_formats():
        stored = STORED_FORMATS[name.values[0]]
        if not stored.lacking:
            write_whole(stored, folder_of(root, name.values[0]))
            write_shards(stored, folder_of(root, name.values[0]) / "shards")
    return root


def folder_of(root: Path, name: str) -> Path:
    return root / "bucket" / name.replace(", ", "-").replace(" ", "-")


@pytest.fixture(scope="module")
def web(root: Path) -> Iterator[str]:
    """Address of the folder on a server that knows ranges and lists nothing."""
    with ObjectServer(root) as server:
        yield server.url


@pytest.fixture(scope="module")
def s3(root: Path) -> Iterator[str]:
    """Address of a bucket that holds the folder."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    variables = {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{address}:{port}", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, SECONDS: "10",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="formats")
        for path in (root / "bucket").rglob("*.*"):
            key = path.relative_to(root / "bucket").as_posix()
            client.put_object(Bucket="formats", Key=key, Body=path.read_bytes())
        yield "s3://formats"
    server.stop()


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with cluster() as opened:
        yield opened


def test_files_on_a_disk_give_the_bits_of_memory(name: str, root: Path, tmp_path: Path) -> None:
    stored, folder = STORED_FORMATS[name], folder_of(root, name)
    check(stored.address(folder / f"whole{stored.ending}"), stored, "all", "labels")
    shards = stored.address(folder / "shards")
    check(shards, stored, "all", "sample", "rows:N")
    check_passes(shards, stored, tmp_path)


def test_a_cluster_gives_the_bits_of_memory(name: str, root: Path, client: Any) -> None:
    stored, folder = STORED_FORMATS[name], folder_of(root, name)
    check_cluster(stored.address(folder / f"whole{stored.ending}"), stored, client)
    check_cluster(stored.address(folder / "shards" / f"*{stored.ending}"), stored, client)


def test_objects_of_a_bucket_give_the_bits_of_memory(name: str, root: Path, s3: str, tmp_path: Path) -> None:
    stored, folder = STORED_FORMATS[name], folder_of(root, name)
    check(stored.address(f"{s3}/{folder.name}/whole{stored.ending}"), stored, "all", "rows:N")
    shards = stored.address(f"{s3}/{folder.name}/shards/")
    check(shards, stored, "all", "sample")
    check_passes(shards, stored, tmp_path)


def test_files_of_a_web_server_give_the_bits_of_memory(name: str, root: Path, web: str) -> None:
    stored, folder = STORED_FORMATS[name], folder_of(root, name)
    prefix = f"{web}/bucket/{folder.name}"
    check(stored.address(f"{prefix}/whole{stored.ending}"), stored, "all", "labels")
    shards = [stored.address(f"{prefix}/shards/part_{number}{stored.ending}") for number in range(11)]
    check(shards, stored, "all", "sample")
