"""What Python takes to queue the work of a pass, and what the order of that work would leave of the speed of a link.

``python -m benchmarks.speed.queueing SETUP`` answers lines of the standard input, as ``benchmarks.speed.card_parts``
does. Nothing here is a measurement of a card: one model takes no time at all, so that only Python is left; the rates
of the other are assumptions, such as a large card on a fast link may have.
"""

from __future__ import annotations

import threading
from typing import Any, Literal

import numpy as np

from benchmarks.harness.part_server import serve
from benchmarks.speed.model_card import ModelCard, Rates
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

Precision = Literal["float64", "float32"]
_REPEATS = 3
LINK = 55.3e9  # bytes a second
_FLOPS = {"float64": 60e12, "float32": 500e12}  # of products of panels, 2 rows D^2 counted
_SYRK_FLOPS, _SYRK_FROM = 119e12, 2048  # of float64 products that form half of a Gram matrix
_MEMORY = 3e12  # bytes a second that a look reads and writes
_WRITTEN = {"float64": 8, "float32": 2}  # bytes of a value of a panel; 2 are read


def assumed_rates(n_features: int, precision: Precision) -> Rates:
    """Return the rates of a card for 16-bit rows; calls of a library are taken to last 6 us, small kernels 3."""
    has_half = precision == "float64" and n_features >= _SYRK_FROM
    return Rates(
        copied_byte=1.0 / LINK,
        seen_value=(2 + _WRITTEN[precision]) / _MEMORY,
        multiplied_row=2.0 * n_features**2 / (_SYRK_FLOPS if has_half else _FLOPS[precision]),
        small_operation=3e-6,
        call=6e-6,
    )


class QueueParts:
    """Rows of zeros in memory of the host, which the models take to be pinned."""

    def __init__(self, setup: dict[str, Any]) -> None:
        shape = max(1024, setup["bytes"] // (2 * setup["features"])), setup["features"]
        self._source = ArraySource(np.zeros(shape, np.float16))

    def __call__(self, part: str, precision: Precision) -> list[dict[str, Any]]:
        """Return the line of a precision."""
        assert part == "queue"
        (python_s, calls, segments), (model_s, _, _) = (
            min(self.queued(ModelCard(rates), precision) for _ in range(_REPEATS))
            for rates in (Rates(), assumed_rates(self._source.shape[1], precision))
        )
        return [{
            "what": "queue", "precision": precision, "rows": self._source.shape[0], "segments": segments,
            "s": python_s, "calls": calls / segments, "model_s": model_s, "link": LINK,
        }]  # fmt: skip

    def queued(self, card: ModelCard, precision: Precision) -> tuple[float, int, int]:
        """Queue a pass, as ``passes.engines.card_engine`` does; return its seconds, and how many calls and segments."""
        runner = PassRunner(self._source, Request(method="gram", precision=precision, workers=1).check(), device=card)
        plan = runner.with_probes(runner.plan(Arithmetic("gram", precision)))
        spec, tree = PassSpec(self._source, plan, accumulator_of(plan), device=card), MergeTree[PartialResult]()
        level = run_level(plan.grid.segment_rows, plan.n_features * self._source.stored.dtype.itemsize)
        rows = plan.row_start, plan.row_stop
        blocks = block_ranges(self._source.bounds(*rows), *rows, plan.block_rows, plan.grid.segment_rows << level)
        began = card.now
        work = CardRunner(spec, blocks, threading.Event(), lambda n_rows: None)
        for node, found in work.read(nodes_of(plan.all_segments, level, tree.tail)):
            tree.add_node(node, found)
            card.finish()
        work.close()
        return card.now - began, card.calls, len(plan.all_segments)


if __name__ == "__main__":
    serve(QueueParts)
