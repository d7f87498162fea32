"""The same matrix in every format, whole and in uneven shards, and what the rows in memory come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rankme_stream as rs
from benchmarks.harness.stored_formats import RAW_WIDTH, STORED_FORMATS, StoredFormat, rows_for
from tests.dumps import rows_like, same_bits
from tests.interruptions import stopped

SEGMENT_ROWS = 65_536  # which a checkpoint and the parts of a job array keep together
N_ROWS = 70_000
ROWS = rows_like(N_ROWS, RAW_WIDTH)
LABELS = np.sort(np.random.default_rng(1).integers(0, 5, N_ROWS))
CUTS = (0, 1, 3, 700, 9_001, 9_002, 20_000, 33_333, 50_000, 65_536, 69_999, N_ROWS)  # eleven shards
# A full pass; a sample of some rows; rows kept apart by number and by label.
ASKED: Mapping[str, dict[str, Any]] = {
    "all": {},
    "sample": {"sample": True, "max_rows": 20_000, "tolerance": 0.2},
    "rows:N": {"groups": "rows:30000"},
    "labels": {"groups": LABELS},
}
WIDE = pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")  # of a sample of few rows


def all_formats() -> list[Any]:
    """Return the names of the formats of the table, as parameters of a test."""
    return [
        pytest.param(name, marks=pytest.mark.skipif(bool(one.lacking), reason=f"{one.lacking} is not installed"))
        for name, one in STORED_FORMATS.items()
    ]


@cache
def wanted(dtype: str, asked: str) -> rs.Measurement:
    """Return what the rows in memory come to, in the number type of a format."""
    stored = next(one for one in STORED_FORMATS.values() if one.dtype == dtype)
    return rs.measure(rows_for(stored, ROWS), **ASKED[asked])


def write_whole(stored: StoredFormat, folder: Path) -> Path:
    """Write the matrix in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"whole{stored.ending}"
    stored.write(path, rows_for(stored, ROWS))
    return path


def write_shards(stored: StoredFormat, folder: Path) -> list[Path]:
    """Write the matrix in eleven files; their order is natural, not that of the alphabet."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_for(stored, ROWS)
    paths = [folder / f"part_{number}{stored.ending}" for number in range(len(CUTS) - 1)]
    for path, start, stop in zip(paths, CUTS[:-1], CUTS[1:], strict=True):
        stored.write(path, rows[start:stop])
    return paths


def options_of(stored: StoredFormat) -> Mapping[str, Any]:
    """Return the options of ``open_source`` that the files need."""
    return stored.options(rows_for(stored, ROWS))


def check(source: Any, stored: StoredFormat, *asked: str) -> None:
    """Hold a source to the bits of the rows in memory, and to the numbers measured from them."""
    opened = rs.open_source(source, **options_of(stored))
    assert opened.read(0, N_ROWS).tobytes() == rows_for(stored, ROWS).tobytes()
    for one in asked:
        assert same_bits(rs.measure(opened, **ASKED[one]), wanted(stored.dtype, one)), one


def check_passes(source: Any, stored: StoredFormat, folder: Path) -> None:
    """Hold a pass that ends after a segment, is stopped, and goes on, and merged parts of a job, to the same bits."""
    opened = rs.open_source(source, **options_of(stored))
    kept = folder / "kept"
    done: list[Any] = []
    rs.measure(opened, rows=(0, SEGMENT_ROWS), checkpoint=kept)
    stopped(opened, kept, 0)
    found = rs.measure(opened, checkpoint=kept, progress=done.append)
    assert done[-1].rows_before >= SEGMENT_ROWS
    assert same_bits(found, wanted(stored.dtype, "all"))
    parts = [rs.segment(opened, part=(number, 2), state=folder / f"part{number}") for number in (1, 0)]
    assert same_bits(rs.measure_state(rs.merge_states(parts)), wanted(stored.dtype, "all"))


@contextmanager
def cluster() -> Iterator[Any]:
    """Start a cluster of two processes, and yield its client."""
    from distributed import Client, LocalCluster

    settings = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0", "memory_limit": "1GiB"}
    with LocalCluster(n_workers=2, **settings) as opened, Client(opened) as client:
        yield client


def check_cluster(source: Any, stored: StoredFormat, client: Any) -> None:
    """Hold a pass of a cluster to the same bits."""
    opened = rs.open_source(source, **options_of(stored))
    assert same_bits(rs.measure(opened, engine="dask", client=client), wanted(stored.dtype, "all"))
