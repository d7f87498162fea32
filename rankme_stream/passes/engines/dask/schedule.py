"""Tasks of a pass on a cluster: how long a run of segments is, how many are under way, and what that takes; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from rankme_stream.accumulators.methods import METHODS
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.merge_tree import Node

_FLOPS_A_SECOND = {"float64": 40e9, "float32": 80e9}  # of one core: a middling one of today
_BYTES_A_SECOND = 0.5e9  # decoded by one core
_TASK_S = 45.0  # at most: what the death of a worker loses, and no less than a scheduler likes
_PART_LEFT = 1  # a task is at most so small a part of what is left for each thread: the last ones end together
_SPARE = 8  # of so many threads one task waits, and one at least: more would wait for threads that are not free first
_STARTED_AHEAD = 8  # tasks a thread that may have started after the oldest that is not finished
_GATHER_S = 20.0  # between two gatherings of what workers hold


@dataclass(frozen=True)
class Schedule:
    """Tasks for a number of threads somewhere.

    Attributes
    ----------
    threads
        That run one task each.
    task_level
        A task is 2^level segments, a node of the merge tree.
    tasks
        How many there are, but for those at the end, which are smaller and more.
    task_s
        Seconds that one is thought to take.
    in_flight, started_ahead
        Tasks submitted at once, and the farthest that one may have started after the oldest unfinished.
    gather_s
        Seconds between two gatherings.
    node_bytes
        What one partial result holds and sends.
    """

    threads: int
    task_level: int
    tasks: int
    task_s: float
    in_flight: int
    started_ahead: int
    gather_s: float
    node_bytes: int

    @property
    def elapsed_s(self) -> float:
        """Seconds that the pass is thought to take."""
        return self.tasks * self.task_s / self.threads

    @property
    def live_nodes(self) -> int:
        """Most partial results that workers hold at once: those started ahead, and the two being merged a thread."""
        return self.started_ahead + 2 * self.threads

    @property
    def nodes_gathered(self) -> int:
        """Most partial results of one gathering: siblings are merged, so gaps between unfinished tasks count."""
        finished = min(self.tasks, int(self.gather_s / self.task_s * self.threads) + 1)
        return min(finished, self.in_flight) + finished.bit_length()

    @property
    def lost_s(self) -> float:
        """Seconds of work that the death of everything but the state file loses: a task, a gathering, a write."""
        return self.task_s + self.gather_s + 60.0

    def on(self, threads: int) -> Schedule:
        """Return the same tasks for another number of threads."""
        return replace(self, threads=threads, in_flight=_in_flight(threads), started_ahead=_STARTED_AHEAD * threads)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        derived = ("elapsed_s", "live_nodes", "nodes_gathered", "lost_s")
        return asdict(self) | {name: getattr(self, name) for name in derived}

    def nodes(self, missing: list[range]) -> Iterator[Node]:
        """Yield the tasks of some segments, ascending: nodes of the level, smaller ones at gaps and at the end."""
        left = sum(map(len, missing))
        for run in missing:
            start = run.start
            while start < run.stop:
                level = min(self.task_level, _level(left / (_PART_LEFT * self.threads)))
                while start & ((1 << level) - 1) or start + (1 << level) > run.stop:
                    level -= 1
                yield level, start >> level
                start += 1 << level
                left -= 1 << level


def _in_flight(threads: int) -> int:
    return threads + max(1, threads // _SPARE)


def _level(n_segments: float) -> int:
    """Return the largest level of which a node holds no more segments than that, 0 at least."""
    return max(0, int(n_segments).bit_length() - 1)


def schedule_for(plan: Plan, threads: int) -> Schedule:
    """Return the tasks of a plan for so many threads: of at most 45 s, and shorter where there are few."""
    n_rows = plan.row_stop - plan.row_start
    segment_s = (plan.flops / _FLOPS_A_SECOND[plan.precision] + plan.bytes_stored / _BYTES_A_SECOND) / plan.segments
    segment_s *= METHODS[plan.method].slowdown
    level = min(_level(_TASK_S / segment_s), _level(plan.segments / (_PART_LEFT * threads)))
    tasks = -(-n_rows // (plan.grid.segment_rows << level))
    return Schedule(
        threads, level, tasks, segment_s * (1 << level), _in_flight(threads), _STARTED_AHEAD * threads, _GATHER_S,
        plan.node_bytes,
    )  # fmt: skip
