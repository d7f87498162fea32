"""What some rows came to: accumulators, audit and lengths, which merge, travel and are stored together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from rankme_stream.accumulators import Accumulator
from rankme_stream.accumulators.directions import DirectionsAccumulator
from rankme_stream.accumulators.gram import Float32GramAccumulator, GramAccumulator
from rankme_stream.accumulators.nystrom import NystromAccumulator
from rankme_stream.accumulators.row_sketch import RowSketchAccumulator
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.arrays import Array
from rankme_stream.audit import Audit
from rankme_stream.devices import Device
from rankme_stream.devices.host import HOST
from rankme_stream.grids import Method, Precision
from rankme_stream.planning import Plan
from rankme_stream.spectrum import Spectrum
from rankme_stream.unit_rows import Lengths

Rung = tuple[Method, Precision]

ACCUMULATORS: dict[Rung, Any] = {  # cheapest first
    ("gram", "float32"): Float32GramAccumulator,
    ("gram", "float64"): GramAccumulator,
    ("tsqr", "float64"): TsqrAccumulator,
    ("rsvd", "float64"): NystromAccumulator,
    ("frequent-directions", "float64"): DirectionsAccumulator,
    ("row-sketch", "float64"): RowSketchAccumulator,
}


def accumulator_of(plan: Plan) -> Callable[..., Accumulator]:
    """Return what makes the accumulators of a plan, called with the width and a workspace."""
    kind: Callable[..., Accumulator] = ACCUMULATORS[plan.method, plan.precision]
    return partial(kind, columns=plan.columns, seed=plan.seed) if plan.columns else kind


@dataclass(frozen=True)
class Partial:
    """What a segment, or several merged, came to.

    Attributes
    ----------
    accumulators
        ``raw``, and ``unit`` for rows of unit length where they were asked for.
    """

    accumulators: dict[str, Accumulator]
    audit: Audit
    lengths: Lengths

    def merge(self, other: Partial) -> Partial:
        """Return both joined; neither changes."""
        merged = {key: mine.merge(other.accumulators[key]) for key, mine in self.accumulators.items()}
        return Partial(merged, self.audit.merge(other.audit), self.lengths.merge(other.lengths))

    def spectrum(self, key: str, unit_roundoff: float, confidence: float) -> Spectrum:
        """Return the spectrum of an accumulator; what a row sketch tells is to hold with that confidence."""
        found = self.accumulators[key].spectrum(unit_roundoff=unit_roundoff)
        return found if found.raw.folds is None else replace(found, confidence=confidence)

    def on(self, device: Device, rung: Rung) -> Partial:
        """Return the same on a device; itself where it is there already."""
        if all(accumulator.device is device for accumulator in self.accumulators.values()):
            return self
        return Partial.from_record(rung, *self.to_record(), device)

    def to_record(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return it as JSON types and arrays of the host; ``from_record`` gives the same bits back."""
        plain = {"audit": asdict(self.audit), "lengths": asdict(self.lengths)}
        arrays = {
            f"{key}/{name}": array
            for key, accumulator in self.accumulators.items()
            for name, array in accumulator.to_arrays().items()
        }
        return plain, arrays

    @classmethod
    def from_record(
        cls, rung: Rung, plain: Mapping[str, Any], arrays: Mapping[str, Array], device: Device = HOST
    ) -> Partial:
        """Return the partial result, by that arithmetic, that ``to_record`` described, on a device."""
        parts: dict[str, dict[str, Array]] = {}
        for path, array in arrays.items():
            key, _, name = path.partition("/")
            parts.setdefault(key, {})[name] = array
        accumulators = {key: ACCUMULATORS[rung].from_arrays(part, device) for key, part in parts.items()}
        return cls(accumulators, Audit(**plain["audit"]), Lengths(**plain["lengths"]))
