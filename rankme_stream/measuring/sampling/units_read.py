"""Partial results of the units that a sample has read, in replicates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.measuring.sampling.independence import Independence, independence
from rankme_stream.measuring.sampling.replicates import Jackknife, merged
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.spectra.tail_index import TailIndex, hill


class UnitsRead:
    """Replicates of a sample as read so far, and their merge.

    Parameters
    ----------
    replicates
        Partial result of each replicate, by its number.
    workers
        Threads for the eigensolves.
    unit_roundoff
        Unit roundoff of the stored type.
    """

    def __init__(self, replicates: Mapping[int, PartialResult], workers: int, unit_roundoff: float) -> None:
        self.replicates = [replicates[number] for number in sorted(replicates)]
        self._workers, self._unit_roundoff = workers, unit_roundoff
        self._jackknives: dict[str, Jackknife] = {}

    @cached_property
    def whole(self) -> PartialResult:
        """Merge of all replicates."""
        return merged(self.replicates)

    @property
    def n_rows(self) -> int:
        """Number of rows behind the numbers."""
        return self.whole.accumulators["raw"].n_rows

    @property
    def n_features(self) -> int:
        """Width D of the rows."""
        return self.whole.accumulators["raw"].n_features

    def jackknife(self, kind: str, n_features: int | None = None) -> Jackknife:
        """Return the jackknife of ``raw`` or ``unit`` rows, the same at every call, or of their first features."""
        if kind in self._jackknives and n_features is None:
            return self._jackknives[kind]
        parts = [_accumulator(one, kind, n_features) for one in self.replicates]
        whole = _accumulator(self.whole, kind, n_features)
        found = Jackknife(parts, whole, self._workers, unit_roundoff=self._unit_roundoff)
        if n_features is None:
            self._jackknives[kind] = found
        return found

    @cached_property
    def effective_replicates(self) -> float:
        """Number of replicates of equal energy that weigh as evenly: (sum t)^2 / sum t^2."""
        exponent = self.whole.row_norms.exponent
        norms = [replicate.row_norms for replicate in self.replicates]
        squares = [one.rescale(max(exponent, one.exponent)).squares for one in norms]
        return math.fsum(squares) ** 2 / math.fsum(square**2 for square in squares)

    @cached_property
    def independence(self) -> Independence:
        """How far the rows of a unit are alike; not all rows are zero."""
        jackknife = self.jackknife("raw")
        return independence(
            jackknife.spectrum.raw.values, jackknife.values_without(centered=False), jackknife.replicate_rows,
            self.whole.row_norms.effective_rows,
        )  # fmt: skip

    @cached_property
    def tail(self) -> TailIndex:
        """Tail index of the largest |z|^2 of each unit.

        Not of all rows: the rows of a unit may have their lengths in common, and count once then. Not of the energies
        of units: sums hide the tail.
        """
        return hill(self.whole.unit_maxima)


def _accumulator(partial: PartialResult, kind: str, n_features: int | None) -> Accumulator:
    accumulator = partial.accumulators[kind]
    return accumulator if n_features is None else accumulator.prefix(n_features)
