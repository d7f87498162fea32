"""Rows that come once: gathered into segments, and read as they come."""

from __future__ import annotations

import time
from typing import Literal

from rankme_stream.accumulators.methods import Arithmetic
from rankme_stream.errors import LimitError
from rankme_stream.measuring.completed_pass import CompletedPass
from rankme_stream.measuring.escalation import check_not_empty
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.numerics import machine
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.passes.engines.engine import Progress, Report
from rankme_stream.passes.planning.grid import grid_for
from rankme_stream.passes.planning.plan import Plan, extend_plan, make_plan
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.sources import BlockStream, Window


def read_blocks(
    stream: BlockStream,
    arithmetic: Arithmetic,
    *,
    normalize: bool,
    workers: int | None,
    memory_limit: int | None,
    nonfinite: Literal["error", "skip"],
    device: Device,
    sketch_size: int,
    seed: int,
    confidence: float,
    progress: Report | None,
) -> tuple[CompletedPass, int]:
    """Read rows that come once; return the pass and the bytes read.

    As many rows are gathered as the workers' segments hold, so the bits are those of a pass over the same rows stored.
    """
    forest = MergeTree[PartialResult]()
    bytes_read, began = 0, time.perf_counter()
    n_rows, plan = _window(stream, arithmetic, normalize, workers, memory_limit, sketch_size, seed, device)

    def read(window: Window) -> tuple[Plan, int]:
        rows = (window.row_start, window.shape[0])
        reader = PassRunner(
            window,
            rows,
            normalize,
            workers,
            memory_limit,
            "error",
            nonfinite,
            device=device,
            sketch_size=sketch_size,
            seed=seed,
        )
        planned = reader.plan(arithmetic)
        reader.read_into(forest, planned)
        return planned, reader.bytes_read

    while (window := stream.take(n_rows)) is not None:
        planned, n_bytes = read(window)
        del window  # before the next one is gathered
        plan = max(plan, planned, key=lambda one: one.predicted_peak_bytes)
        bytes_read += n_bytes
        if progress is not None:
            progress(Progress(stream.n_rows, stream.n_rows, bytes_read, time.perf_counter() - began))
    whole, forest = forest.total(), MergeTree[PartialResult]()  # and let go of what it was merged from
    done = CompletedPass.of(whole, extend_plan(plan, stream.n_rows), stream.stored.unit_roundoff, "error", confidence)
    check_not_empty(done, stream.uri)
    return done, bytes_read


def _window(
    stream: BlockStream,
    arithmetic: Arithmetic,
    normalize: bool,
    workers: int | None,
    memory_limit: int | None,
    sketch_size: int,
    seed: int,
    device: Device,
) -> tuple[int, Plan]:
    """Return how many rows to gather, as many segments as run at once, and the plan for them."""
    segment_rows = grid_for(stream.n_features, *arithmetic, sketch_size).segment_rows
    for count in [workers] if workers else range(machine.cores(), 0, -1):
        n_rows = count * segment_rows
        limits = machine.limits(count, memory_limit)
        try:
            plan = make_plan(
                method=arithmetic.method, precision=arithmetic.precision, normalize=normalize, rows=(0, n_rows),
                n_features=stream.n_features, itemsize=stream.stored.dtype.itemsize, bounds=range(1, n_rows),
                read_memory=lambda _: 0, base_bytes=limits.base_bytes + n_rows * stream.row_bytes,
                memory_limit_bytes=limits.memory_limit_bytes,
                workers=count, cores=limits.cores, sketch_size=sketch_size, seed=seed,
                has_card=device is not HOST, has_host=device is HOST, card_limit_bytes=device.free_bytes(),
            )  # fmt: skip
        except LimitError:
            if workers or count == 1:
                raise
            continue
        return plan.segments_at_once * segment_rows, plan
    raise AssertionError("one worker at least was tried")
