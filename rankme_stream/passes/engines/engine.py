"""What every engine does with a plan, and how it reports its progress."""

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
    """How far a pass is: rows of how many, bytes decoded, seconds since the first read.

    ``rankme`` is RankMe and the ends of its interval, those of them that are known, where a sample was just looked at.
    ``rows_before`` came from a checkpoint and are counted in neither number of rows; ``checkpoint_age_s`` is how old
    the checkpoint of this pass is.
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
    """Where passes run."""

    @property
    def name(self) -> str:
        """As results tell it."""

    @property
    def device(self) -> str | None:
        """Name of what its workers compute with, each one of its own; None where the device of a task is meant."""

    def limits(self, workers: int | None, memory_limit: int | None) -> machine.Limits:
        """Return what a pass may take there."""

    def machines(self, workers: int) -> list[dict[str, Any]]:
        """Return what read, as ``provenance`` lists it."""

    @property
    def chunks_missing(self) -> int:
        """Chunks that were met without a value there, where the source here may not know of them."""

    def __call__(
        self, forest: MergeTree[PartialResult], task: PassSpec, segments: range, progress: Report | None, /
    ) -> int:
        """Run segments of a pass that are not in a forest yet, into it; return the bytes decoded."""
