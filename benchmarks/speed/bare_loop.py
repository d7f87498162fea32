"""The plainest loop over the package's own parts, to see what the order of a real pass costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import rankme_stream as rs
from rankme_stream.numerics.dtypes import StoredType
from rankme_stream.passes.planning.block_layout import block_ranges
from rankme_stream.passes.planning.plan import Plan


def bare_loop_s(uri: Any, *, reading_alone: bool = False) -> float:
    """Return the wall seconds of a loop in which each thread takes the next block of a source and reads it.

    Unless reading is alone, the thread also audits, casts, multiplies and adds the block, slab by slab. There is no
    check of the store, no reading ahead, no fixed tree of segments, no row left out, no solving.
    """
    source, planned = rs.open_source(uri), rs.plan(uri)
    n_rows, n_features = source.shape
    blocks = block_ranges(source.bounds(0, n_rows), 0, n_rows, planned.block_rows, planned.grid.segment_rows)
    lock = threading.Lock()

    def read() -> None:
        buffer, work = np.empty(0, source.stored.dtype), _slab_work(source.stored, planned)
        while True:
            with lock:
                start, stop = next(blocks, (0, 0))
            if stop == 0:
                return
            if buffer.size < (stop - start) * n_features:
                buffer = np.empty((stop - start) * n_features, source.stored.dtype)
            rows = source.read(start, stop, buffer[: (stop - start) * n_features].reshape(-1, n_features))
            for row in () if reading_alone else range(0, len(rows), planned.slab_rows):
                work(rows[row : row + planned.slab_rows])

    began = time.perf_counter()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(planned.workers) as pool:
        for future in [pool.submit(read) for _ in range(planned.workers)]:
            future.result()
    return time.perf_counter() - began


def _slab_work(stored: StoredType, planned: Plan) -> Callable[[np.ndarray], None]:
    """Return a function that audits, casts, multiplies and adds the rows of one slab."""
    n_features, panel_rows = planned.n_features, planned.grid.panel_rows
    bits = np.empty((planned.slab_rows, n_features), np.int32)
    slab = np.ones((planned.slab_rows, 1 + n_features))
    gram, product = np.zeros((2, 1 + n_features, 1 + n_features))

    def work(rows: np.ndarray) -> None:
        assert stored.nonfinite_rows(rows) is None
        assert not len(stored.zero_rows(rows))
        stored.widen(rows, slab[: len(rows), 1:], bits[: len(rows)])
        for start in range(0, len(rows), panel_rows):
            panel = slab[start : min(start + panel_rows, len(rows))]
            np.matmul(panel.T, panel, out=product)
            np.add(gram, product, out=gram)

    return work
