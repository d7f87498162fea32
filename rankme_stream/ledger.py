"""The merge tree: which segments are in, and their accumulators merged along one fixed shape."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar

from rankme_stream.errors import UsageError


class Mergeable(Protocol):
    """Anything that joins its equal without changing either."""

    def merge(self, other: object, /) -> object:
        """Return both joined."""


T = TypeVar("T")


class Forest(Generic[T]):
    """Values of segments, merged with their siblings as soon as both exist.

    Node (level, i) is the merge of nodes (level - 1, 2 i) and (level - 1, 2 i + 1), so the shape, and with it every
    rounding, depends on the segments' indices only and never on the order in which they finish. Safe for threads.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int], T] = {}
        self._seen: set[int] = set()
        self._lock = threading.Lock()

    def add(self, segment: int, value: T) -> None:
        """Put in the value of a segment.

        Raises
        ------
        UsageError
            If that segment is in already.
        """
        with self._lock:
            if segment in self._seen or any(segment >> level == i for level, i in self._nodes):
                raise UsageError(f"segment {segment} is in already")
            self._seen.add(segment)
        level, index = 0, segment
        while True:
            with self._lock:
                sibling = self._nodes.pop((level, index ^ 1), None)
                if sibling is None:
                    self._nodes[level, index] = value
                    self._seen.discard(segment)
                    return
            left, right = (sibling, value) if index & 1 else (value, sibling)
            value = left.merge(right)  # type: ignore[attr-defined]
            del left, right, sibling
            level, index = level + 1, index >> 1

    @property
    def n_live(self) -> int:
        """How many values are held: the maximal subtrees seen so far."""
        return len(self._nodes)

    def total(self) -> T:
        """Return the merge of everything, small subtrees on the right first.

        Raises
        ------
        UsageError
            If nothing was put in.
        """
        nodes = sorted(self._nodes.items(), key=lambda node: node[0][1] << node[0][0])
        if not nodes:
            raise UsageError("no segment was put in")
        value = nodes.pop()[1]
        while nodes:
            value = nodes.pop()[1].merge(value)  # type: ignore[attr-defined]
        return value
