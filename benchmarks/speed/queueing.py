"""What Python takes to queue the work of a pass, on a card that does nothing.

``python -m benchmarks.speed.queueing SETUP`` answers lines of the standard input, as ``benchmarks.speed.card_parts``
does. What a library takes to hand an operation to a real card comes on top; the operations are counted.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Literal

import numpy as np

from benchmarks.harness.part_server import serve
from benchmarks.speed.null_card import NullCard
from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.request import Request
from rankme_stream.passes.loop.card_run import CardRunner
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning.block_layout import block_ranges
from rankme_stream.passes.planning.card_layout import run_level
from rankme_stream.passes.state.merge_tree import MergeTree, nodes_of
from rankme_stream.passes.state.partial_result import PartialResult, accumulator_of
from rankme_stream.sources import ArraySource

_REPEATS = 3


class QueueParts:
    """Rows of zeros in memory of the host, which the null card takes to be pinned."""

    def __init__(self, setup: dict[str, Any]) -> None:
        shape = max(1024, setup["bytes"] // (2 * setup["features"])), setup["features"]
        self._source = ArraySource(np.zeros(shape, np.float16))

    def __call__(self, part: str, precision: Literal["float64", "float32"]) -> list[dict[str, Any]]:
        """Return the line of a precision."""
        assert part == "queue"
        card = NullCard()
        spec = self.spec(card, precision)
        times = [self.seconds(spec) for _ in range(_REPEATS)]
        n_segments, n_rows = len(spec.plan.all_segments), self._source.shape[0]
        return [{
            "what": "queue", "precision": precision, "rows": n_rows, "segments": n_segments, "s": min(times),
            "operations": card.operations / (_REPEATS * n_segments),
        }]  # fmt: skip

    def spec(self, card: NullCard, precision: Literal["float64", "float32"]) -> PassSpec:
        """Return the pass over all rows."""
        runner = PassRunner(self._source, Request(method="gram", precision=precision, workers=1).check(), device=card)
        plan = runner.with_probes(runner.plan(Arithmetic("gram", precision)))
        return PassSpec(self._source, plan, accumulator_of(plan), device=card)

    def seconds(self, spec: PassSpec) -> float:
        """Return the seconds in which one thread queues the pass, as ``passes.engines.card_engine`` does."""
        plan, tree = spec.plan, MergeTree[PartialResult]()
        level = run_level(plan.grid.segment_rows, plan.n_features * spec.source.stored.dtype.itemsize)
        rows = plan.row_start, plan.row_stop
        blocks = block_ranges(self._source.bounds(*rows), *rows, plan.block_rows, plan.grid.segment_rows << level)
        began = time.perf_counter()
        runner = CardRunner(spec, blocks, threading.Event(), lambda n_rows: None)
        for node in nodes_of(plan.all_segments, level, tree.tail):
            tree.add_node(node, runner.read(node))
        runner.close()
        return time.perf_counter() - began


if __name__ == "__main__":
    serve(QueueParts)
