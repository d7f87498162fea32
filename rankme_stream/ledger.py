"""The merge tree: which segments are in, and what they came to, merged along one fixed shape."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from rankme_stream.errors import UsageError

Node = tuple[int, int]  # level and index: segments [index << level, (index + 1) << level)


class Mergeable(Protocol):
    """Anything that joins its equal without changing either."""

    def merge(self, other: object, /) -> object:
        """Return both joined."""


T = TypeVar("T")


def span(node: Node) -> range:
    """Return the segments of a node."""
    level, index = node
    return range(index << level, (index + 1) << level)


def runs(spans: Iterable[range]) -> list[range]:
    """Return ranges of step one as few as they can be, ascending."""
    joined: list[range] = []
    for each in sorted(spans, key=lambda span: span.start):
        if joined and each.start <= joined[-1].stop:
            before = joined.pop()
            each = range(before.start, max(before.stop, each.stop))
        joined.append(each)
    return joined


class Forest(Generic[T]):
    """Values of segments, merged with their siblings as soon as both exist.

    Node (level, i) is the merge of nodes (level - 1, 2 i) and (level - 1, 2 i + 1), so the shape, and with it every
    rounding, depends on the segments' indices only and never on the order in which they finish. Safe for threads.

    Parameters
    ----------
    tail
        Segments from here on are merged with those before it by ``total`` alone, so that they can be taken out again;
        None for no such segments.
    """

    def __init__(self, tail: int | None = None) -> None:
        self.tail = tail
        self._nodes: dict[Node, T] = {}
        self._lock = threading.Lock()

    def add(self, segment: int, value: T) -> None:
        """Put in the value of a segment.

        Raises
        ------
        UsageError
            If that segment is in already.
        """
        self.add_node((0, segment), value)

    def add_node(self, node: Node, value: T) -> None:
        """Put in the merged value of all segments of a node.

        Raises
        ------
        UsageError
            If one of them is in already.
        """
        with self._lock:
            taken = next((segment for segment in self._held_segments(node)), None)
            if taken is not None:
                raise UsageError(f"segment {taken} is in already")
            sibling = self._put(node, value)
        while sibling is not None:  # both stay until they are merged, so that a snapshot never lacks what is done
            level, index = node
            merged = sibling.merge(value) if index & 1 else value.merge(sibling)  # type: ignore[attr-defined]
            with self._lock:
                del self._nodes[node], self._nodes[level, index ^ 1]
                node, value = (level + 1, index >> 1), merged
                sibling = self._put(node, value)

    def is_merged(self, node: Node) -> bool:
        """Whether a node is merged with its sibling as soon as both are in."""
        level, index = node
        parent = span((level + 1, index >> 1))
        return self.tail is None or not parent.start < self.tail < parent.stop

    def _held_segments(self, node: Node) -> Iterator[int]:
        level = node[0]
        for other in self._nodes:
            low, high = (other, node) if other[0] <= level else (node, other)
            if low[1] >> (high[0] - low[0]) == high[1]:
                yield span(low).start

    def _put(self, node: Node, value: T) -> T | None:
        """Hold a value and return its sibling, for the caller to merge with: it was there first."""
        self._nodes[node] = value
        level, index = node
        return self._nodes.get((level, index ^ 1)) if self.is_merged(node) else None

    @property
    def n_live(self) -> int:
        """How many values are held: the maximal subtrees seen so far."""
        return len(self._nodes)

    def snapshot(self) -> dict[Node, T]:
        """Return what is in now, whatever is being merged meanwhile."""
        with self._lock:
            return dict(self._nodes)

    def covered(self) -> list[range]:
        """Return the segments that are in, in runs, ascending."""
        return runs(map(span, self.snapshot()))

    def missing(self, segments: range) -> list[range]:
        """Return those of some segments that are not in, in runs, ascending."""
        gaps, start = [], segments.start
        for run in self.covered():
            gaps.append(range(start, min(run.start, segments.stop)))
            start = max(start, run.stop)
        gaps.append(range(start, segments.stop))
        return [gap for gap in gaps if gap]

    def total(self) -> T:
        """Return the merge of everything, small subtrees on the right first.

        Raises
        ------
        UsageError
            If nothing was put in.
        """
        whole = Forest[T]()
        for node, value in self.snapshot().items():
            whole.add_node(node, value)
        nodes = sorted(whole._nodes.items(), key=lambda node: node[0][1] << node[0][0])
        if not nodes:
            raise UsageError("no segment was put in")
        value = nodes.pop()[1]
        while nodes:
            value = nodes.pop()[1].merge(value)  # type: ignore[attr-defined]
        return value
