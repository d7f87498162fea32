"""Tasks of a pass on a cluster: their size, how many are under way, and their time and memory; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from rankme_stream.accumulators.methods import METHODS
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.merge_tree import Node, largest_node, span

_FLOPS_A_SECOND = {"float64": 40e9, "float32": 80e9}  # average core of today
_BYTES_A_SECOND = 0.5e9  # decoded by one core
_TASK_S = 45.0  # at most: a dead worker loses so much, and shorter tasks would burden the scheduler
_PART_LEFT = 1  # a task is at most 1/this of the work left to each thread: the last ones end together
_SPARE = 8  # threads per spare task in the queue, which holds at least one: more would wait for busy threads
_STARTED_AHEAD = 8  # tasks per thread that may start after the oldest unfinished one
_GATHER_S = 20.0  # between two gatherings of the workers' results


@dataclass(frozen=True)
class Schedule:
    """Tasks of a pass for a number of threads.

    Attributes
    ----------
    threads
        Number of threads, each of which runs one task at a time.
    task_level
        Level of a task in the merge tree: it is a node of 2^level segments.
    tasks
        Number of full-size tasks; those at the end are smaller and more.
    task_s
        Estimated seconds of a task.
    in_flight, started_ahead
        Number of tasks submitted at once, and the most that may start after the oldest unfinished one.
    gather_s
        Seconds between two gatherings.
    node_bytes
        Bytes of one partial result.
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
        """Estimated seconds of the pass."""
        return self.tasks * self.task_s / self.threads

    @property
    def live_nodes(self) -> int:
        """Most partial results that workers hold at once: those started ahead, and two in a merge per thread."""
        return self.started_ahead + 2 * self.threads

    @property
    def nodes_gathered(self) -> int:
        """Most partial results of one gathering: siblings are merged, so unfinished tasks bound their number."""
        finished = min(self.tasks, int(self.gather_s / self.task_s * self.threads) + 1)
        return min(finished, self.in_flight) + finished.bit_length()

    @property
    def lost_s(self) -> float:
        """Seconds of work lost if everything but the state file dies: a task, a gathering, a write."""
        return self.task_s + self.gather_s + 60.0

    def for_threads(self, threads: int) -> Schedule:
        """Return the schedule of the same tasks for another number of threads."""
        return replace(self, threads=threads, in_flight=_in_flight(threads), started_ahead=_STARTED_AHEAD * threads)

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as JSON types."""
        derived = ("elapsed_s", "live_nodes", "nodes_gathered", "lost_s")
        return asdict(self) | {name: getattr(self, name) for name in derived}

    def nodes(self, missing: list[range]) -> Iterator[Node]:
        """Yield the tasks of missing segments, ascending: nodes of the level, smaller ones at gaps and at the end."""
        left = sum(map(len, missing))
        for interval in missing:
            start = interval.start
            while start < interval.stop:
                level = min(self.task_level, _level(left / (_PART_LEFT * self.threads)))
                node = largest_node(start, interval.stop, level)
                yield node
                start += len(span(node))
                left -= len(span(node))


def _in_flight(threads: int) -> int:
    return threads + max(1, threads // _SPARE)


def _level(n_segments: float) -> int:
    """Return the largest level whose nodes hold at most that many segments; 0 at least."""
    return max(0, int(n_segments).bit_length() - 1)


def schedule_for(plan: Plan, threads: int, most_bytes: int | None = None) -> Schedule:
    """Return the schedule of a plan for a number of threads: tasks of at most 45 s, shorter if there are few.

    A task of several segments holds at most ``most_bytes`` of stored rows, if given.
    """
    n_rows = plan.row_stop - plan.row_start
    segment_s = (plan.flops / _FLOPS_A_SECOND[plan.precision] + plan.bytes_stored / _BYTES_A_SECOND) / plan.segments
    segment_s *= METHODS[plan.method].slowdown
    level = min(_level(_TASK_S / segment_s), _level(plan.segments / (_PART_LEFT * threads)))
    if most_bytes is not None:
        level = min(level, _level(most_bytes * plan.segments / plan.bytes_stored))
    tasks = -(-n_rows // (plan.grid.segment_rows << level))
    return Schedule(
        threads, level, tasks, segment_s * (1 << level), _in_flight(threads), _STARTED_AHEAD * threads, _GATHER_S,
        plan.node_bytes,
    )  # fmt: skip
