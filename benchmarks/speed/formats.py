"""How fast is each format read and scored, beside its own reader and the loop that people write around it?

``python -m benchmarks formats`` writes the same rows in every format and times, in turn and in one process, warm page
cache, medians of the ratios of rounds: reading every block into a reused buffer, ours beside the format's own reader;
the whole score beside a loop over the field's reader with numpy's float64 Gram and eigenvalues; reading objects of an
S3 server on loopback beside a plain parallel download of the same bytes; and opening a folder of 1,000 shards. What
is not installed is said.
"""

from __future__ import annotations

import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import rankme_stream as rs
from benchmarks.harness import processes
from benchmarks.harness.experiment import Experiment, Size
from benchmarks.harness.stored_formats import STORED_FORMATS, StoredFormat, rows_for
from benchmarks.resilience import object_server
from benchmarks.speed import formats_page
from benchmarks.speed.bare_loop import bare_loop_s
from benchmarks.speed.block_readers import LOOPS, READERS, Loop

_BLOCK = 8_192  # rows: of a row group of the files, too
_SHAPES = {"quick": ((2_000, 32),), "default": ((131_072, 768), (524_288, 128))}  # the first for reading, too
_ROUNDS = {"quick": 1, "default": 5}
_SHARDS = {"quick": 50, "default": 1_000}
_FOLDERS = ("npy", "hbin", "safetensors", "parquet", "hdf5", "hdf5, gzip")
_OBJECTS = {"quick": (4, 2**20), "default": (16, 2**25)}  # number, bytes of each
_SERVED = ("npy", "parquet", "hdf5")
_DOWNLOADS = 8  # at once


def rows_of(stored: StoredFormat, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Return Gaussian rows of decaying spectrum in the number type of a format."""
    rows = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    rows *= np.arange(1, shape[1] + 1, dtype=np.float32) ** -0.25
    return rows_for(stored, rows)


def compared(ours: Callable[[], Any], others: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Return the seconds of each, round by round in turn, and the median of the ratios of rounds, others to ours."""
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
    for _ in range(rounds + 1):
        for name, run in {"ours": ours, **others}.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    warm = {name: times[1:] for name, times in seconds.items()}
    ratios = {
        name: statistics.median(other / mine for other, mine in zip(warm[name], warm["ours"], strict=True))
        for name in others
    }
    return {"seconds": {name: statistics.median(times) for name, times in warm.items()}, "ratios": ratios}


def reading(name: str, shape: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Compare reading every block of a file into a reused buffer."""
    stored = STORED_FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{stored.ending}"
        rows = rows_of(stored, shape)
        stored.write(path, rows)
        source = rs.open_source(stored.address(path), **_options(stored, rows))
        del rows
        buffer = np.empty((min(_BLOCK, shape[0]), shape[1]), stored.dtype)

        def read() -> None:
            for start in range(0, shape[0], _BLOCK):
                stop = min(shape[0], start + _BLOCK)
                source.read(start, stop, buffer[: stop - start])

        found = compared(read, {"own": lambda: READERS[name](path, buffer, shape[0])}, rounds)
    return found | {"bytes": shape[0] * shape[1] * np.dtype(stored.dtype).itemsize}


def scoring(name: str, shape: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Compare the whole score of a file with loops over the field's reader."""
    stored = STORED_FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{stored.ending}"
        rows = rows_of(stored, shape)
        stored.write(path, rows)
        options = _options(stored, rows)
        del rows
        loops = {title: lambda loop=loop: loop_rankme(path, loop) for title, loop in LOOPS[name]}
        ours, theirs = (
            rs.measure(rs.open_source(stored.address(path), **options)).rankme,
            loop_rankme(path, LOOPS[name][0][1]),
        )
        if not ours.lower * (1 - 1e-9) <= theirs <= ours.upper * (1 + 1e-9):
            raise SystemExit(f"{name}: we measure {ours}, and the loop {theirs}")
        return compared(lambda: rs.measure(rs.open_source(stored.address(path), **options)), loops, rounds)


def loop_rankme(path: Path, loop: Loop) -> float:
    """Return RankMe by a float64 Gram of the blocks of a loop."""
    gram = None
    for block in loop(path, _BLOCK):
        rows = np.asarray(block, np.float64)
        gram = rows.T @ rows if gram is None else gram + rows.T @ rows
    assert gram is not None
    values = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _options(stored: StoredFormat, rows: np.ndarray[Any, Any]) -> dict[str, Any]:
    return dict(stored.options(rows))


def opening(name: str, n_shards: int) -> dict[str, Any]:
    """Time opening a folder of shards."""
    stored = STORED_FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(stored, (16, 16))
        stored.write(Path(folder) / f"part_0{stored.ending}", rows)
        whole = (Path(folder) / f"part_0{stored.ending}").read_bytes()
        for number in range(1, n_shards):
            (Path(folder) / f"part_{number}{stored.ending}").write_bytes(whole)
        times = []
        for _ in range(3):
            began = time.perf_counter()
            source = rs.open_source(stored.address(f"{folder}/*{stored.ending}"), **_options(stored, rows))
            times.append(time.perf_counter() - began)
        if source.shape[0] != 16 * n_shards:
            raise SystemExit(f"{name}: {source.shape[0]} rows in {n_shards} shards")
    return {"shards": n_shards, "seconds": times}


def remote(names: list[str], n_objects: int, n_bytes: int, rounds: int) -> dict[str, Any]:
    """Compare reading the objects of a server in the dialect of S3 with a plain parallel download of them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", object_server.__name__, folder]
        server = subprocess.Popen(command, cwd=processes.ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            _use_server(url)
            return {name: _downloaded(name, Path(folder), url, (n_objects, n_bytes, rounds)) for name in names}
        finally:
            server.kill()
            server.wait()


def _downloaded(name: str, folder: Path, url: str, size: tuple[int, int, int]) -> dict[str, Any]:
    stored, (n_objects, n_bytes, rounds) = STORED_FORMATS[name], size
    bucket = folder / name
    bucket.mkdir()
    for number in range(n_objects):
        rows = np.random.default_rng(number).standard_normal((n_bytes // 512, 256), dtype=np.float32)
        stored.write(bucket / f"part_{number}{stored.ending}", rows.astype(stored.dtype))
    paths = [f"/{name}/{path.name}" for path in sorted(bucket.iterdir())]
    address = [stored.address(f"s3:/{path}") for path in paths]
    found = compared(
        lambda: bare_loop_s(address, reading_alone=True), {"download": lambda: download(url, paths)}, rounds
    )
    return found | {"bytes": sum(path.stat().st_size for path in bucket.iterdir())}


def _use_server(url: str) -> None:
    """Set the endpoint, and credentials that are none."""
    os.environ |= {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }  # fmt: skip


def download(url: str, paths: list[str]) -> None:
    """Get objects by HTTP, several at once, each into memory of its own that is dropped."""

    def get(path: str) -> None:
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request("GET", path)
        answer = connection.getresponse()
        left = memoryview(bytearray(int(answer.headers["Content-Length"])))
        while len(left):
            left = left[answer.readinto(left) :]
        connection.close()

    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        list(pool.map(get, paths))


def why_not(name: str) -> str:
    """Return why a format is left out; "" if it is not."""
    lacking = STORED_FORMATS[name].lacking
    return f"{lacking} is not installed" if lacking else ""


def main() -> None:
    """Run, print and write the page."""
    minutes: dict[Size, str] = {"quick": "15 s", "default": "20 minutes on two free cores"}
    experiment = Experiment("formats", __doc__, minutes)
    experiment.parser.add_argument("--format", action="append", choices=STORED_FORMATS, help="of these formats only")
    wanted = experiment.start().format or [*STORED_FORMATS]
    size = experiment.size
    left_out = {name: why for name in wanted if (why := why_not(name))}
    names = [name for name in wanted if name not in left_out]
    shapes, rounds = _SHAPES[size], _ROUNDS[size]
    result: dict[str, Any] = {"left_out": left_out, "shapes": shapes}
    result["reading"] = {name: experiment.part(f"reading {name}", reading, name, shapes[0], rounds) for name in names}
    result["scoring"] = [
        {"format": name, "shape": shape}
        | experiment.part(f"scoring {name}, width {shape[1]}", scoring, name, shape, min(rounds, 3))
        for shape in shapes
        for name in names
        if name in LOOPS
    ]
    result["opening"] = {
        name: experiment.part(f"folder of {name}", opening, name, _SHARDS[size]) for name in _FOLDERS if name in names
    }
    served = [name for name in _SERVED if name in names]
    result["remote"] = experiment.part("server", remote, served, *_OBJECTS[size], rounds)
    experiment.finish(result, formats_page.markdown)
