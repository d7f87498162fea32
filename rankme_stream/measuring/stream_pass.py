"""Pass over a stream of blocks: rows are gathered into segments and read as they arrive."""

from __future__ import annotations

import time
from dataclasses import replace

from rankme_stream.accumulators.method import Arithmetic, Size
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.errors import LimitError
from rankme_stream.measuring.completed_pass import CompletedPass
from rankme_stream.measuring.escalation import check_not_empty
from rankme_stream.measuring.pass_runner import PassRunner, draw_probe_seed
from rankme_stream.measuring.placement import traveling_bytes
from rankme_stream.measuring.request import Request
from rankme_stream.numerics import machine
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.passes.engines.engine import Progress, Report
from rankme_stream.passes.planning.card_layout import run_level
from rankme_stream.passes.planning.plan import Plan, extend_plan, make_plan
from rankme_stream.passes.planning.workload import CardLimits, RowLayout, Workload
from rankme_stream.passes.state.audit import Rules
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.sources import BlockStream, Window


def read_stream(
    stream: BlockStream, arithmetic: Arithmetic, request: Request, device: Device, progress: Report | None
) -> tuple[CompletedPass, int]:
    """Read a stream of blocks; return the pass and the bytes read.

    Whole segments are gathered, one per worker, so the bits are those of a pass over the same rows in a store; but the
    probes of float32 products are drawn from the seed of the request and the first row, because no other is known yet.
    """
    tree = MergeTree[PartialResult]()
    bytes_read, start_s = 0, time.perf_counter()
    n_rows, plan = _plan_window(stream, arithmetic, request, device)
    is_probed, probe_seed = METHODS[arithmetic.method].draws_probes(arithmetic.precision), 0

    def read(window: Window) -> tuple[Plan, int]:
        nonlocal probe_seed
        rows = (window.row_start, window.shape[0])
        runner = PassRunner(window, replace(request, rows=rows, missing="error"), device=device)
        if is_probed and not probe_seed:
            probe_seed = draw_probe_seed(window, (0, 1), request.seed)
        runner.probe_seed = probe_seed
        planned = runner.with_probes(runner.plan(arithmetic))
        runner.read_into(tree, planned)
        return planned, runner.bytes_read

    while (window := stream.take(n_rows)) is not None:
        planned, n_bytes = read(window)
        del window  # frees its memory before the next one is gathered
        plan = max(plan, planned, key=lambda plan: plan.predicted_peak_bytes)
        bytes_read += n_bytes
        if progress is not None:
            progress(Progress(stream.n_rows, stream.n_rows, bytes_read, time.perf_counter() - start_s))
    whole, tree = tree.total(), MergeTree[PartialResult]()  # frees the nodes that the total was merged from
    plan = replace(extend_plan(plan, stream.n_rows), probe_seed=probe_seed)
    rules = Rules("error", request.nonfinite, request.zeros)
    done = CompletedPass.of(whole, plan, stream.stored.unit_roundoff, rules, request.confidence)
    check_not_empty(done, stream.uri, stream.stored.fault)
    return done, bytes_read


def _plan_window(stream: BlockStream, arithmetic: Arithmetic, request: Request, device: Device) -> tuple[int, Plan]:
    """Return the number of rows to gather, those of all segments that run at once, and the plan for them."""
    size = Size(stream.n_features, request.sketch_size(stream.n_features))
    workload = Workload(arithmetic, size, normalize=request.normalize, seed=request.seed)
    segment_rows = workload.grid.segment_rows
    card = None
    if device is not HOST:  # whole runs are gathered
        segment_rows <<= run_level(segment_rows, stream.row_bytes)
        card = CardLimits(device.free_bytes(), has_host=False, itemsize=traveling_bytes(stream, device))
    for count in [request.workers] if request.workers else range(machine.cores(), 0, -1):
        n_rows = segment_rows * (count if card is None else 1)
        layout = RowLayout((0, n_rows), stream.stored.dtype.itemsize, range(1, n_rows), lambda _: 0)
        limits = machine.limits(count, request.memory_limit)
        limits = replace(limits, base_bytes=limits.base_bytes + n_rows * stream.row_bytes)
        try:
            plan = make_plan(workload, layout, limits, card)
        except LimitError:
            if request.workers or count == 1:
                raise
            continue
        return plan.segments_at_once * segment_rows, plan
    raise AssertionError("at least one worker was tried")
