"""The merge tree: values of segments, merged along one fixed shape."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from rankme_stream.errors import UsageError

Node = tuple[int, int]  # level and index: segments [index << level, (index + 1) << level)


T = TypeVar("T")


def span(node: Node) -> range:
    """Return the segments of a node."""
    level, index = node
    return range(index << level, (index + 1) << level)


def largest_node(start: int, stop: int, level: int) -> Node:
    """Return the largest node, up to a level, that begins at a segment and ends at or before another."""
    while start & ((1 << level) - 1) or start + (1 << level) > stop:
        level -= 1
    return level, start >> level


def nodes_of(segments: range, level: int, cut: int | None = None) -> Iterator[Node]:
    """Yield the largest nodes up to a level that make up consecutive segments, ascending; none reaches over a cut."""
    start = segments.start
    while start < segments.stop:
        stop = segments.stop if cut is None or cut <= start else min(cut, segments.stop)
        node = largest_node(start, stop, level)
        yield node
        start = span(node).stop


class IntervalSet:
    """Set of segments, held as the fewest possible intervals: ranges of step one, ascending."""

    def __init__(self, spans: Iterable[range] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for each in spans:
            self.add(each)

    def __iter__(self) -> Iterator[range]:
        return map(range, list(self._starts), list(self._stops))

    def first_of(self, segments: range) -> int | None:
        """Return the first of ``segments`` in the set; None if none is."""
        position = bisect_right(self._stops, segments.start)
        if position < len(self._starts) and self._starts[position] < segments.stop:
            return max(self._starts[position], segments.start)
        return None

    def add(self, segments: range) -> None:
        """Add segments, none of which is in the set yet."""
        start, stop = segments.start, segments.stop
        position = bisect_right(self._stops, start)
        if position and self._stops[position - 1] == start:
            position -= 1
            start = self._starts.pop(position)
            del self._stops[position]
        if position < len(self._starts) and self._starts[position] == stop:
            stop = self._stops.pop(position)
            del self._starts[position]
        self._starts.insert(position, start)
        self._stops.insert(position, stop)

    def missing(self, segments: range) -> list[range]:
        """Return the intervals of ``segments`` that are not in the set, ascending."""
        gaps, start = [], segments.start
        for interval in self:
            gaps.append(range(start, min(interval.start, segments.stop)))
            start = max(start, interval.stop)
        gaps.append(range(start, segments.stop))
        return [gap for gap in gaps if gap]


class MergeTree(Generic[T]):
    """Values of segments, merged with their siblings as soon as both exist.

    Node (level, i) is the merge of nodes (level - 1, 2 i) and (level - 1, 2 i + 1), so the shape, and with it every
    rounding, depends on the segments' indices only and never on the order in which they finish. Thread-safe.

    Parameters
    ----------
    tail
        First of the segments that only ``total`` merges with those before them, so that they can be removed again;
        None if there are none.
    """

    def __init__(self, tail: int | None = None) -> None:
        self.tail = tail
        self._nodes: dict[Node, T] = {}
        self._intervals = IntervalSet()
        self._lock = threading.Lock()

    def add(self, segment: int, value: T) -> None:
        """Add the value of a segment.

        Raises
        ------
        UsageError
            If the segment is in the tree already.
        """
        self.add_node((0, segment), value)

    def add_node(self, node: Node, value: T) -> None:
        """Add the merged value of all segments of a node.

        Raises
        ------
        UsageError
            If one of them is in the tree already.
        """
        with self._lock:
            known = self._intervals.first_of(span(node))
            if known is not None:
                raise UsageError(f"segment {known} is in the tree already")
            self._intervals.add(span(node))
            sibling = self._put(node, value)
        while sibling is not None:  # both stay until they are merged, so that a snapshot never lacks a value
            level, index = node
            merged = sibling.merge(value) if index & 1 else value.merge(sibling)  # type: ignore[attr-defined]
            with self._lock:
                del self._nodes[node], self._nodes[level, index ^ 1]
                node, value = (level + 1, index >> 1), merged
                sibling = self._put(node, value)

    def is_merged(self, node: Node) -> bool:
        """Return whether a node is merged with its sibling as soon as both are in."""
        level, index = node
        parent = span((level + 1, index >> 1))
        return self.tail is None or not parent.start < self.tail < parent.stop

    def _put(self, node: Node, value: T) -> T | None:
        """Store a value and return its sibling if it is in already, for the caller to merge with."""
        self._nodes[node] = value
        level, index = node
        return self._nodes.get((level, index ^ 1)) if self.is_merged(node) else None

    @property
    def n_live(self) -> int:
        """Number of values held: one for each maximal subtree."""
        return len(self._nodes)

    def snapshot(self) -> dict[Node, T]:
        """Return the values held now, whatever is being merged meanwhile."""
        with self._lock:
            return dict(self._nodes)

    def covered(self) -> list[range]:
        """Return the segments that are in, as intervals, ascending."""
        with self._lock:
            return list(self._intervals)

    def missing(self, segments: range) -> list[range]:
        """Return the intervals of ``segments`` that are not in, ascending."""
        with self._lock:
            return self._intervals.missing(segments)

    def total(self) -> T:
        """Return the merge of all values, small subtrees on the right first.

        Raises
        ------
        UsageError
            If the tree is empty.
        """
        whole = MergeTree[T]()
        for node, value in self.snapshot().items():
            whole.add_node(node, value)
        nodes = sorted(whole._nodes.items(), key=lambda node: node[0][1] << node[0][0])
        if not nodes:
            raise UsageError("no segment was added")
        value = nodes.pop()[1]
        while nodes:
            value = nodes.pop()[1].merge(value)  # type: ignore[attr-defined]
        return value
