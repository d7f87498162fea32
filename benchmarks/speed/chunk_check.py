"""How long does the check of a store's chunks before a pass take, and how much memory does it add?

``python -m benchmarks chunk_check`` makes two zarr stores of 10^6 chunks (hard links to a few files), one with flat
keys and one with nested ones. It times opening plus fingerprint, which also finds missing chunks, with warm metadata.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks.harness.experiment import Experiment, table
from rankme_stream.numerics import machine
from rankme_stream.sources import open_source

_LINKS = 30_000  # of one file; ext4 allows 65,000
_CHUNK_ROWS = 4
_MISSING_EVERY = 7


def make_store(path: Path, n_chunks: int, nested: bool) -> None:
    """Write a store; every seventh of its chunks is missing."""
    encoding = {"name": "default", "separator": "/" if nested else "."}
    array = zarr.create_array(
        path, shape=(n_chunks * _CHUNK_ROWS, 8), dtype="f2", chunks=(_CHUNK_ROWS, 8), chunk_key_encoding=encoding
    )
    array[:_CHUNK_ROWS] = np.ones((_CHUNK_ROWS, 8), dtype=np.float16)
    source = path / ("c/0/0" if nested else "c.0.0")
    for index in range(1, n_chunks):
        if index % _MISSING_EVERY == 0:
            continue
        if nested:
            (path / "c" / str(index)).mkdir()
        target = path / (f"c/{index}/0" if nested else f"c.{index}.0")
        if index % _LINKS == 1:
            target.write_bytes(source.read_bytes())
            source = target
        else:
            os.link(source, target)


def check(path: Path) -> dict[str, Any]:
    """Open and check a store twice; return the time of the second check and the memory that the first one added."""
    open_source(str(path)).fingerprint(0, 1)
    for attempt in range(2):
        before, began = machine.resident_bytes(), time.perf_counter()
        with machine.PeakMemory() as memory:
            source = open_source(str(path))
            source.fingerprint(0, source.shape[0])
        elapsed = time.perf_counter() - began
        if attempt == 0:
            growth = memory.peak_bytes - before
    return {"elapsed_s": round(elapsed, 2), "growth_mb": round(growth / 1e6, 1), "missing": source.chunks_missing}


def checked(n_chunks: int, layout: str) -> dict[str, Any]:
    """Make and check a store; end with an error if the number of missing chunks found is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.zarr"
        make_store(path, n_chunks, nested=layout == "nested")
        row = check(path)
    expected = sum(1 for index in range(1, n_chunks) if index % _MISSING_EVERY == 0)
    if row["missing"] != expected:
        raise SystemExit(f"the check found {row['missing']} missing chunks, and {expected} are missing")
    return row


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    heading = f"`{result['command']}`, {result['date']}, {result['machine']}; "
    lines = ["# Cost of checking the chunks of a store", "", heading + "warm metadata, one chunk in seven missing."]
    lines += table(
        "Opening and fingerprint",
        ["keys", "chunks", "seconds", "memory growth, MB", "missing chunks found"],
        [
            [layout, f"{result['chunks']:,}", row["elapsed_s"], row["growth_mb"], f"{row['missing']:,}"]
            for layout, row in result["layouts"].items()
        ],
    )
    return "\n".join(lines)


def main() -> None:
    """Run, print and write the page."""
    experiment = Experiment("chunk_check", __doc__, {"quick": "5 s, 10^4 chunks", "default": "5 minutes"})
    experiment.start()
    n_chunks = 10_000 if experiment.size == "quick" else 1_000_000
    rows = {layout: experiment.part(layout, checked, n_chunks, layout) for layout in ("flat", "nested")}
    experiment.finish({"chunks": n_chunks, "layouts": rows}, markdown)
