"""What a full pass over a source would take: its plan, its time here, and its requests to a server."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankme_stream.errors import LimitError, RankMeError, SourceError, StorageError
from rankme_stream.measuring.api import plan as make_plan
from rankme_stream.numerics import blas_threads, counter_rng
from rankme_stream.numerics.dtypes import Array
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.sources import Source, Storage, is_remote

_SKETCH: dict[str, Any] = {"method": "frequent-directions", "rank": 256}
_WIDEST = 512  # features of the product that is timed
_FLOPS = 2**28  # of the product that is timed: 10 ms
_VALUES = 2**18  # decoded to be timed


@dataclass(frozen=True)
class FullPass:
    """Plan of a full pass and the options that it needs, or the reason why there is none.

    Attributes
    ----------
    options
        Options of ``score`` that the plan needs.
    refused
        Message where a pass without options is refused.
    """

    plan: Plan | None
    options: tuple[str, ...] = ()
    refused: str | None = None


def plan_full_pass(source: Source, memory_limit: int | None, workers: int | None) -> FullPass:
    """Return the plan of a pass over every row, by a sketch where nothing else fits in memory."""
    limits: dict[str, Any] = {"memory_limit": memory_limit, "workers": workers}
    try:
        return FullPass(make_plan(source, **limits))
    except LimitError as error:
        refused = error.message
    except (SourceError, StorageError) as error:
        return FullPass(None, refused=error.message)
    try:
        planned = make_plan(source, **_SKETCH, **limits)
    except RankMeError:
        return FullPass(None, refused=refused)
    options = ("--method", _SKETCH["method"], "--rank", str(_SKETCH["rank"]), "--tolerance", "0.2")
    return FullPass(planned, options, refused)


def expected_time(source: Source, planned: Plan, rows_per_second: float, block: Array | None) -> dict[str, float]:
    """Return the seconds that a pass takes, about: those of one thread for reading and computing, by the threads.

    Parameters
    ----------
    rows_per_second
        Rows that one thread decodes.
    block
        Rows as they are stored, to time their conversion; None for none.

    Notes
    -----
    Times a product of 10 ms. Reading from a server or a disk that many threads share may gain less by threads.
    """
    n_rows, n_features = source.shape
    reading = n_rows / rows_per_second
    n_columns = min(n_features, _WIDEST)
    rows = counter_rng.normal((max(64, min(8192, _FLOPS // n_columns**2)), n_columns), seed=0, counter=0)
    with blas_threads.one_thread():
        product_s = min(_timed(lambda: np.matmul(rows.T, rows)) for _ in range(3))
        values_s = 0.0
        if block is not None:
            some = block[: max(1, _VALUES // n_features)]
            values_s = min(_timed(lambda: source.stored.values(some)) for _ in range(2)) / some.size
    computing = planned.flops * product_s / (len(rows) * n_columns**2) + n_rows * n_features * values_s
    threads = max(1, planned.workers)
    return {"seconds": (reading + computing) / threads, "reading_s": reading, "computing_s": computing}


def remote_cost(
    source: Source, storage: Storage, planned: Plan | None, per_gb: float | None, per_1000_requests: float | None
) -> dict[str, Any] | None:
    """Return requests, bytes and price of reading every row from a server once; None where nothing waits for one."""
    if not is_remote(source):
        return None
    n_rows, n_features = source.shape
    n_bytes = storage.n_bytes
    if n_bytes is None:
        n_bytes = n_rows * n_features * source.stored.dtype.itemsize
    n_requests = storage.n_requests
    if n_requests is None:
        n_requests = math.ceil(n_rows / (planned.block_rows if planned is not None else n_rows))
    price = None
    if per_gb is not None or per_1000_requests is not None:
        price = (per_gb or 0.0) * n_bytes / 1e9 + (per_1000_requests or 0.0) * n_requests / 1000
    return {"requests": n_requests, "bytes": n_bytes, "price": price}


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
