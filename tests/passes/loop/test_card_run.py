"""Runs on a card follow each other without a pause, and the first fault comes first."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from benchmarks.speed.model_card import ModelCard, Rates
from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.errors import NonFiniteError, StorageError
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.request import Request
from rankme_stream.passes.loop.card_run import CardRunner
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning.block_layout import BlockRange
from rankme_stream.passes.state.partial_result import accumulator_of
from rankme_stream.sources import ArraySource
from tests.toy_device import TOY

D = 64
NODES = [(0, 0), (0, 1), (0, 2)]  # a segment each


class Logged(ModelCard):
    """A model of a card that notes copies and waits of the host."""

    def __init__(self) -> None:
        super().__init__(Rates(multiplied_row=1e-6))
        self.log: list[str] = []

    def wait_until(self, at: float) -> None:
        self.log.append("wait")
        super().wait_until(at)

    def stream(self) -> Any:
        made = super().stream()
        copy = made.copy
        made.copy = lambda rows, out: (self.log.append("copy"), copy(rows, out))
        return made


class Unpinned(ModelCard):
    """A model of a card to which rows are copied through slots."""

    def __init__(self) -> None:
        super().__init__(Rates())

    def is_pinned(self, rows: np.ndarray) -> bool:
        return False

    def pinned(self, n_bytes: int) -> np.ndarray:
        return np.empty(n_bytes, np.uint8)


class Failing(ArraySource):
    """Rows in memory that cannot be read from some row on."""

    fails_from = 2**62

    def read(self, start: int, stop: int, out: Any = None) -> Any:
        if stop > self.fails_from:
            raise StorageError("the disk is gone")
        return super().read(start, stop, out)


def segment_rows() -> int:
    runner = PassRunner(ArraySource(np.ones((9, D), np.float32)), Request(method="gram").check())
    return runner.plan(Arithmetic("gram", "float64")).grid.segment_rows


SEGMENT = segment_rows()


def card_runner(source: ArraySource, card: Any) -> CardRunner:
    """Return what reads a source, a block a segment."""
    runner = PassRunner(source, Request(method="gram", workers=1).check(), device=card)
    plan = runner.plan(Arithmetic("gram", "float64"))
    assert plan.all_segments == range(len(NODES))
    blocks = [BlockRange(first, last) for first, last in (plan.rows_of(range(i, i + 1)) for i in range(3))]
    spec = PassSpec(source, plan, accumulator_of(plan), device=card)
    return CardRunner(spec, blocks, threading.Event(), lambda n_rows: None)


def rows() -> np.ndarray:
    return np.ones((len(NODES) * SEGMENT, D), np.float32)


def test_the_next_run_is_queued_before_the_last_is_waited_for():
    card = Logged()
    work = card_runner(ArraySource(rows()), card)
    card.log.clear()
    found = work.read(NODES)
    assert next(found)[0] == NODES[0]
    assert card.log[:3] == ["copy", "copy", "wait"]
    assert [node for node, _ in found] == NODES[1:]
    assert card.log.count("copy") == 3


@pytest.mark.parametrize("fails_in", [1, 2])
def test_runs_before_one_that_cannot_be_read_are_kept(fails_in: int):
    source, kept = Failing(rows()), []
    found = card_runner(source, Unpinned()).read(NODES)
    source.fails_from = fails_in * SEGMENT
    with pytest.raises(StorageError, match="the disk is gone"):
        kept.extend(node for node, _ in found)
    assert kept == NODES[:fails_in]


def test_a_fault_in_rows_of_a_run_comes_before_the_failure_of_the_next():
    held = rows()
    held[SEGMENT - 5, 3] = np.nan
    source = Failing(held)
    found = card_runner(source, TOY).read(NODES)
    source.fails_from = SEGMENT
    with pytest.raises(NonFiniteError, match=f"row {SEGMENT - 5:,}"):
        list(found)
