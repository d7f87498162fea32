"""Passes on a card: runs of segments, read by one thread that queues all of its work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import wait
from typing import cast

from rankme_stream.accumulators.methods import METHODS
from rankme_stream.numerics import blas_threads, machine
from rankme_stream.numerics.devices.card import Card
from rankme_stream.numerics.devices.known_products import check_factor, check_products
from rankme_stream.passes.engines.engine import Progress, Report
from rankme_stream.passes.loop.card_run import CardRunner
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning.block_layout import BlockRange
from rankme_stream.passes.state.merge_tree import Node
from rankme_stream.passes.state.partial_result import PartialResult

_TICK_S = 0.1


def run_nodes(
    spec: PassSpec,
    nodes: Iterable[Node],
    block_ranges: Iterable[BlockRange],
    add: Callable[[Node, PartialResult], None],
    rows_total: int,
    progress: Report | None = None,
) -> int:
    """Read nodes of consecutive segments, ascending, on the card of a pass and return the bytes decoded.

    Parameters, errors and progress are those of ``local.run_segments``; an interrupt stops the pass at its next slab.
    """
    stop, began, rows_done = threading.Event(), time.perf_counter(), 0
    work: CardRunner | None = None

    def count(n_rows: int) -> None:
        nonlocal rows_done
        rows_done += n_rows

    def report() -> None:
        if progress is not None:
            n_bytes = 0 if work is None else work.bytes_read
            progress(Progress(rows_done, rows_total, n_bytes, time.perf_counter() - began))

    def run() -> int:
        nonlocal work
        cast(Card, spec.device).check_settings(spec.plan.precision, spec.panel_type)
        work = CardRunner(spec, block_ranges, stop, count)
        try:
            work.check_products()
            for node, found in work.read(nodes):
                add(node, found)
                cast(Card, spec.device).finish()  # merges must be done before memory that they read is given to others
        finally:
            work.close()
        return work.bytes_read

    machine.return_freed_memory()
    pool = blas_threads.threads(1, "rankme-card")
    try:
        # What is queued may make the rows, or use memory that was freed; and this thread may be inside of a stream.
        cast(Card, spec.device).finish()
        check_products(spec.device, pool, of_rows=METHODS[spec.plan.method].keeps_rows)
        if METHODS[spec.plan.method].uses_qr:
            pool.submit(check_factor, spec.device).result()
        running = pool.submit(run)
        while not wait([running], timeout=_TICK_S).done:
            report()
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    n_bytes = running.result()
    report()
    return n_bytes
