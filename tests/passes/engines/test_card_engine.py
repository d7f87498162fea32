"""Passes on a card that a program begins while it is inside of a stream of its own, or beside others."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.accumulators.error_probes import ErrorProbes
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.numerics.devices import registry
from rankme_stream.numerics.devices.device import Adopted, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.passes.state.audit import Audit
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.passes.state.row_norms import RowNorms
from rankme_stream.testing import with_ones
from tests.async_toy import DLPACK_KIND, AsyncToy, Schedule

ROWS = np.random.default_rng(0).standard_normal((3000, 5))
SCHEDULES = ["late", 0, 1]


def served(monkeypatch: pytest.MonkeyPatch, seed: int | str) -> AsyncToy:
    """Return a card that a request calls ``toy``."""
    card = AsyncToy(Schedule(seed))
    module = SimpleNamespace(open_device=lambda index: card, memory_errors=lambda: ())
    monkeypatch.setattr(registry, "import_module", lambda name: module)
    monkeypatch.setitem(registry.MODULES, "toy", ("a card",))
    monkeypatch.setitem(registry._DLPACK_KINDS, DLPACK_KIND, "toy")
    return card


def blocks_of(card: AsyncToy) -> Iterator[Adopted]:
    """Yield rows that are made on a card, in the current stream."""
    for start in range(0, len(ROWS), 700):
        yield Adopted(card, card.upload(ROWS[start : start + 700]))


@pytest.mark.parametrize("seed", SCHEDULES)
@pytest.mark.parametrize("options", [{"precision": "float64"}, {"precision": "float32"}, {"normalize": True}], ids=str)
def test_a_pass_begins_inside_of_a_stream(monkeypatch: pytest.MonkeyPatch, seed: int | str, options: Any):
    card = served(monkeypatch, seed)
    wanted = rs.measure(ROWS, method="gram", **options).rankme
    with card.stream():
        of_host = rs.measure(ROWS, method="gram", device="toy", **options).rankme
        made_there = rs.measure(blocks_of(card), method="gram", **options).rankme
    for found in (of_host, made_there):
        assert found.lower <= wanted.value <= found.upper
        assert found.value == pytest.approx(wanted.value, rel=1e-6)


def test_probes_that_passes_share_are_on_the_card_before_another_pass_takes_them():
    card = AsyncToy(Schedule("late"))
    with card.stream():
        probes = ErrorProbes(5, 3, card)
    np.testing.assert_array_equal(probes._directions.raw, ErrorProbes(5, 3, HOST)._directions)


def test_what_a_thread_has_merged_just_now_is_stored_whole():
    card = AsyncToy(Schedule("late"))

    def result(rows: np.ndarray, device: Any) -> PartialResult:
        accumulator = GramAccumulator(5, Workspace(device))
        accumulator.update(device.upload(with_ones(rows)), 0)
        return PartialResult({"raw": accumulator}, Audit(), RowNorms())

    found, wanted = (result(ROWS[:9], device).merge(result(ROWS[9:20], device)) for device in (card, HOST))
    with card.stream():
        _, arrays = found.to_record()
    for name, values in wanted.to_record()[1].items():
        np.testing.assert_allclose(arrays[name], values, rtol=1e-12)
