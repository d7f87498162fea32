"""The asynchronous toy: it does work late and in order, honours events, and spoils what may be written again."""

import ast
from pathlib import Path

import numpy as np
import pytest

from rankme_stream.accumulators.float32_gram import Float32GramAccumulator
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.devices.device import Workspace
from tests.async_toy import PLAIN, AsyncToy, DeadlockError, Readers, Schedule, Site, ToyEvent

SEEDS = ["early", "late", *range(8)]


def test_work_is_done_later_and_only_by_those_who_wait() -> None:
    card = AsyncToy(Schedule("late"))
    stream = card.stream()
    with stream:
        ones = card.upload(np.ones(3)) + 0.0
    assert np.isnan(card.download(ones)).all()  # waits for the default stream, in which there is nothing
    with stream:
        assert (card.download(ones) == 1).all()
    hasty = AsyncToy(Schedule("early"))
    with hasty.stream():
        ones = hasty.upload(np.ones(3)) + 0.0
    assert (hasty.download(ones) == 1).all()


@pytest.mark.parametrize("is_waited_for", [True, False])
def test_a_stream_that_does_not_wait_for_another_reads_too_early(is_waited_for: bool) -> None:
    found = []
    for seed in SEEDS:
        card = AsyncToy(Schedule(seed))
        copying, computing = card.stream(), card.stream()
        rows = card.pinned(16).view(np.float64)
        rows[:] = 1.0, 2.0
        out = card.allocate((2,), np.float64)
        copying.copy(rows, out)
        if is_waited_for:
            computing.wait(copying.record())
        with computing:
            found.append(card.download(out * 2.0).tolist() == [2.0, 4.0])
    assert all(found) is is_waited_for and any(found)


@pytest.mark.parametrize("is_waited_for", [True, False])
def test_memory_that_is_freed_goes_to_others(is_waited_for: bool) -> None:
    found = []
    for seed in SEEDS:
        card = AsyncToy(Schedule(seed))
        other = card.stream()
        number = card.upload(np.full(4, 2.0))
        other.wait(card.mark())
        with other:
            squared = number * number
        if is_waited_for:
            other.record().wait()
        del number
        card.upload(np.zeros(4))
        with other:
            found.append(card.download(squared).tolist() == [4.0] * 4)
    assert all(found) is is_waited_for and any(found)


@pytest.mark.parametrize("is_waited_for", [True, False])
def test_pinned_memory_that_is_freed_is_spoiled_at_once(is_waited_for: bool) -> None:
    card = AsyncToy(Schedule("late"))
    rows, out, stream = card.pinned(16).view(np.float64), card.allocate((2,), np.float64), card.stream()
    rows[:] = 1.0, 2.0
    assert card.is_pinned(rows[1:]) and not card.is_pinned(np.ones(3))
    stream.copy(rows[:], out)
    if is_waited_for:
        stream.record().wait()
    del rows
    with stream:
        assert np.isnan(card.download(out)).all() is np.bool_(not is_waited_for)
    with pytest.raises(AssertionError, match="not pinned"):
        stream.copy(np.ones(2), out)


def test_a_seed_repeats_everything() -> None:
    def trace(seed: int | str) -> list[int]:
        schedule, order = Schedule(seed), []
        card, readers = AsyncToy(schedule), Readers(schedule)
        streams = [card.stream() for _ in range(3)]
        for number in range(30):
            with streams[number % 3]:
                card.put(lambda number=number: order.append(number))
            readers.submit(order.append, 100 + number)
        for stream in streams:
            stream.record().wait()
        return order

    traces = {seed: trace(seed) for seed in range(20)}
    assert all(trace(seed) == found for seed, found in traces.items())
    assert len({tuple(found) for found in traces.values()}) == len(traces)
    for found in traces.values():
        for first in range(3):  # each stream in its order
            assert [number for number in found if number < 100 and number % 3 == first] == list(range(first, 30, 3))
    assert trace("early")[::2] == list(range(30))
    assert trace("late") == sorted(range(30), key=lambda number: number % 3)


def test_tasks_of_readers_are_done_at_some_moment_and_may_wait_themselves() -> None:
    for seed in SEEDS:
        schedule, done = Schedule(seed), []
        card, readers = AsyncToy(schedule), Readers(schedule)
        stream = card.stream()
        with stream:
            card.put(lambda done=done: done.append("card"))
        event = stream.record()

        def task(done=done, event=event) -> None:
            event.wait()
            done.append("task")

        def fail() -> None:
            raise SourceFormatError("no number")

        future, failing = readers.submit(task), readers.submit(fail)
        future.result()
        assert done == ["card", "task"]
        with pytest.raises(SourceFormatError, match="no number"):
            failing.result()
    readers = Readers(Schedule("late"))
    cancelled = readers.submit(done.append, "never")
    readers.shutdown(wait=False, cancel_futures=True)
    cancelled.result()
    assert "never" not in done


def test_the_waits_of_a_line_can_be_left_out() -> None:
    def program(left_out: tuple[Site, ...]) -> bool:
        card = AsyncToy(Schedule("late", left_out))
        stream = card.stream()
        with stream:
            ones = card.upload(np.ones(3))
        stream.record().wait()
        return bool((card.download(ones) == 1).all())

    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    function = next(one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == "program")
    line = next(one.lineno for one in function.body if ast.unparse(one) == "stream.record().wait()")
    assert program(())
    assert not program((Site(__file__, line, line),))
    assert program((Site(__file__, line + 1, line + 1),))


def test_what_a_card_refuses() -> None:
    card = AsyncToy(Schedule("early"))
    ones = card.upload(np.ones(3))
    for mix in (lambda: ones + np.ones(3), lambda: ones.__setitem__(slice(None), np.ones(3)), lambda: np.asarray(ones)):
        with pytest.raises(TypeError):
            mix()
    stream = card.stream()
    late = ToyEvent(card.schedule, stream.queue, 2)
    stream.wait(late)
    with pytest.raises(DeadlockError):
        late.wait()


@pytest.mark.parametrize("kind", [GramAccumulator, Float32GramAccumulator, TsqrAccumulator])
def test_accumulators_have_the_bits_of_a_device_that_computes_at_once(kind: type) -> None:
    rows = np.random.default_rng(0).standard_normal((200, 5))
    panel = np.concatenate([np.ones((200, 1)), rows], axis=1)

    def state(device) -> dict[str, np.ndarray]:
        one = kind(5, Workspace(device))
        one.update(device.upload(panel[:100]), 0)
        one.update(device.upload(panel[100:]), 100)
        return one.merge(one).to_arrays()

    wanted = state(PLAIN)
    for seed in SEEDS:
        found = state(AsyncToy(Schedule(seed)))
        assert all(found[name].tobytes() == values.tobytes() for name, values in wanted.items())
