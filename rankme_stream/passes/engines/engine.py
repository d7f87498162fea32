"""The interface of every engine, and how it reports progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rankme_stream.numerics import machine
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.passes.state.partial_result import PartialResult


@dataclass(frozen=True)
class Progress:
    """Progress of a pass: rows done and in all, bytes decoded, seconds since the first read.

    ``rankme`` is RankMe and the ends of its interval after a look at a sample, each None if unknown. ``rows_before``
    came from a checkpoint and are counted in neither number of rows; ``checkpoint_age_s`` is the age of this pass's
    checkpoint.
    """

    rows_done: int
    rows_total: int
    bytes_read: int
    elapsed_s: float
    rankme: tuple[float | None, float | None, float | None] | None = None
    rows_before: int = 0
    checkpoint_age_s: float | None = None


Report = Callable[[Progress], None]


class Engine(Protocol):
    """Runs passes, here or elsewhere."""

    @property
    def name(self) -> str:
        """Name of the engine in results."""

    @property
    def device(self) -> str | None:
        """Name of the device that each worker computes with, one of its own; None for the device of the pass."""

    def limits(self, workers: int | None, memory_limit: int | None) -> machine.Limits:
        """Return the limits of a pass there."""

    def machines(self, workers: int) -> list[dict[str, Any]]:
        """Return the machines that read, as ``provenance`` lists them."""

    @property
    def chunks_missing(self) -> int:
        """Number of chunks that workers found missing, of which the source in this process may not know."""

    def __call__(
        self, tree: MergeTree[PartialResult], spec: PassSpec, segments: range, progress: Report | None, /
    ) -> int:
        """Read the segments that a tree lacks and add them to it; return the bytes decoded."""
