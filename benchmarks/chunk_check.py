"""How long the check of a store's chunks takes before a pass, and what memory it adds.

``python -m benchmarks.chunk_check`` makes two zarr stores of 10^6 chunks (hard links to a few files), one with flat
keys and one with nested ones, and times opening plus fingerprint, which also finds missing chunks, with warm metadata.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from rankme_stream import machine
from rankme_stream.sources import open_source

_LINKS = 30_000  # below the 65,000 hard links that ext4 allows a file
_CHUNK_ROWS = 4
_MISSING_EVERY = 7


def make_store(path: Path, n_chunks: int, nested: bool) -> None:
    """Write a store of that many chunks, every seventh of them missing."""
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
    """Open, check twice, and report the second time."""
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


def main() -> None:
    """Run both layouts, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10^4 chunks, as the test suite does")
    parser.add_argument("--out", type=Path, help="folder for chunk_check.json and chunk_check.md")
    arguments = parser.parse_args()
    n_chunks = 10_000 if arguments.quick else 1_000_000
    print(f"makes 2 x {n_chunks:,} files; about {n_chunks * 1.5e-4 / 60:.1f} minutes", flush=True)
    rows = {}
    for layout in ("flat", "nested"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "store.zarr"
            make_store(path, n_chunks, nested=layout == "nested")
            rows[layout] = check(path)
            expected = sum(1 for index in range(1, n_chunks) if index % _MISSING_EVERY == 0)
            if rows[layout]["missing"] != expected:
                raise SystemExit(f"{rows[layout]['missing']} chunks found missing, {expected} are")
    result = {
        "command": "python -m benchmarks.chunk_check" + (" --quick" if arguments.quick else ""),
        "date": date.today().isoformat(),
        "machine": f"{machine.describe()['cpu']}, {machine.cores()} cores, Python {platform.python_version()}",
        "chunks": n_chunks,
        "layouts": rows,
    }
    table = "\n".join(
        [
            "# Checking the chunks of a store",
            "",
            f"`{result['command']}`, {result['date']}, {result['machine']}; warm metadata, one chunk in seven missing.",
            "",
            "| keys | chunks | seconds | growth, MB | found missing |",
            "|---|---|---|---|---|",
            *(
                f"| {layout} | {n_chunks:,} | {row['elapsed_s']} | {row['growth_mb']} | {row['missing']:,} |"
                for layout, row in rows.items()
            ),
        ]
    )
    print(table)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "chunk_check.json").write_text(json.dumps(result, indent=2) + "\n")
        (arguments.out / "chunk_check.md").write_text(table + "\n")


if __name__ == "__main__":
    main()
