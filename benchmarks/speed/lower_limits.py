"""Lower limit for the time of a pass over a zarr store: decoding, casting and multiplying every row, and nothing else.

Each part is timed alone, on one thread a core at once, by every candidate known to be fast. The limit is the sum of the
fastest candidates' CPU seconds over the number of cores. ``python -m benchmarks.speed.lower_limits URI`` prints one as
JSON. Reads are warm: the same rows were read before, so they come from the page cache.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.speed.limit_candidates import (
    CAST_ROWS,
    UNIT_BYTES,
    Call,
    Candidate,
    Lane,
    casts,
    first_rows,
    open_array,
    products,
    readers,
    slab_sizes,
)
from rankme_stream.numerics import machine


def limit(
    uri: str, *, precision: Literal["float64", "float32"] = "float64", seconds: float = 0.12, rounds: int = 5
) -> dict[str, Any]:
    """Return the least time for decoding, casting and multiplying all rows of a two-dimensional zarr array.

    Parameters
    ----------
    uri
        ``store.zarr`` or ``store.zarr::group/array``, local.
    precision
        Precision of the panels and products.
    seconds
        Time that a candidate runs in each round; at least one call a thread.
    rounds
        Number of rounds. Every candidate runs once a round, so that drift of the machine affects all alike.

    Returns
    -------
    dict
        JSON types. ``parts`` has for ``decode``, ``cast`` and ``product`` the ``best`` candidate, its ``cpu_s``, and
        all ``candidates`` with ``cpu_s``, ``wall_s`` and the CPU seconds of the ``rounds``: of all threads, for all
        rows. ``limit_s`` is the sum of the three ``cpu_s`` over ``cores``; ``unavailable`` has the readers that did
        not run, and the reasons.

    Notes
    -----
    A candidate counts by the *median* of its rounds: the limit is compared with medians of passes, and the least of
    many candidates' least rounds would select noise. The cast goes into panels with a column of ones, so it is a copy
    where the types agree. ``matmul`` does not add its product to a sum, ``syrk`` adds in place. BLAS runs on one
    thread, and every lane has its own buffers: about 100 MB for reading (one chunk of rows if that is more) and 4,096
    rows of the precision.
    """
    array = open_array(uri, "zarr-python")
    candidates, unavailable = readers(uri, array)
    candidates += [*casts(array), *products(precision)]
    n_cores = machine.cores()
    lanes = _lanes(array, n_cores, precision)
    figures: list[list[tuple[float, float]]] = [[] for _ in candidates]
    with threadpool_limits(1, user_api="blas"):
        calls = [[one.prepare(lane) for lane in lanes] for one in candidates]
        for work in calls:
            _timed(work, 0.0)
        for _ in range(rounds):
            for figure, work in zip(figures, calls, strict=True):
                figure.append(_timed(work, seconds))
    parts = _summary(candidates, figures, array.shape[0])
    return {
        "uri": uri, "n_rows": array.shape[0], "n_features": array.shape[1], "dtype": str(array.dtype),
        "chunks": list(array.chunks), "precision": precision, "cores": n_cores, "seconds": seconds, "rounds": rounds,
        "parts": parts, "unavailable": unavailable,
        "limit_s": sum(part["cpu_s"] for part in parts.values()) / n_cores,
    }  # fmt: skip


def _lanes(array: Any, count: int, precision: str) -> list[Lane]:
    """Make one lane a thread, and bring the rows that they read into the page cache."""
    sample_rows = max(CAST_ROWS[-1], UNIT_BYTES // (array.shape[1] * array.dtype.itemsize))
    sample = np.asarray(array[:sample_rows]).astype(array.dtype.newbyteorder("="))
    slab_rows = max(slab_sizes(array)) * array.chunks[0]
    for start in first_rows(array, max(slab_sizes(array))):
        array[start : start + slab_rows]
    return [Lane(index, count, sample, slab_rows, precision) for index in range(count)]


def _timed(work: Sequence[Call], seconds: float) -> tuple[float, float]:
    """Repeat calls for some seconds, one call a thread, all at once; return CPU and wall seconds a row."""
    barrier = threading.Barrier(len(work))

    def repeat(call: Call) -> int:
        barrier.wait()
        end, n_rows = time.perf_counter() + seconds, call()
        while time.perf_counter() < end:
            n_rows += call()
        return n_rows

    with ThreadPoolExecutor(len(work)) as pool:
        cpu, wall = time.process_time(), time.perf_counter()
        n_rows = sum(pool.map(repeat, work))
        return (time.process_time() - cpu) / n_rows, (time.perf_counter() - wall) / n_rows


def _summary(
    candidates: list[Candidate], figures: list[list[tuple[float, float]]], n_rows: int
) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for one, figure in zip(candidates, figures, strict=True):
        cpu, wall = zip(*figure, strict=True)
        parts.setdefault(one.part, {"candidates": {}})["candidates"][one.name] = {
            "cpu_s": median(cpu) * n_rows,
            "wall_s": median(wall) * n_rows,
            "rounds": [value * n_rows for value in cpu],
        }
    for part in parts.values():
        by_name = part["candidates"]
        part["best"] = min(by_name, key=lambda name, by_name=by_name: by_name[name]["cpu_s"])
        part["cpu_s"] = by_name[part["best"]]["cpu_s"]
    return parts


def main() -> None:
    """Print the limit of one store as a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.lower_limits", description=__doc__)
    parser.add_argument("uri")
    parser.add_argument("--precision", choices=["float64", "float32"], default="float64")
    parser.add_argument("--seconds", type=float, default=0.12, help="time of a candidate in a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps(limit(**vars(arguments))))


if __name__ == "__main__":
    main()
