"""Result of some rows: accumulators, audit and row norms, which merge, travel and are stored together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.accumulators.nystrom.accumulator import NystromAccumulator
from rankme_stream.accumulators.nystrom.test_vectors import LaterPass, OrthonormalBasis
from rankme_stream.groups.grouped_rows import GroupedRows
from rankme_stream.numerics.devices.card import Card
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.audit import Audit
from rankme_stream.passes.state.row_norms import RowNorms
from rankme_stream.passes.state.witnesses import Witnesses
from rankme_stream.spectra.spectrum import Spectrum

_GROUPS = "groups"  # beside the names of accumulators in a record


def accumulator_of(plan: Plan, basis: OrthonormalBasis | None = None) -> Callable[..., Accumulator]:
    """Return the function that makes accumulators of a plan, called with the width and a workspace."""
    kind = METHODS[plan.method].accumulator(plan.precision)
    if METHODS[plan.method].draws_probes(plan.precision):
        assert plan.probe_seed  # drawn when the pass began
        return partial(kind, seed=plan.probe_seed)
    if not plan.sketch_size:
        return kind
    kind = partial(kind, sketch_size=plan.sketch_size, seed=plan.seed)
    return kind if basis is None else partial(kind, later=LaterPass(plan.pass_number, basis))


@dataclass(frozen=True)
class PartialResult:
    """Result of a segment, or of several merged.

    Attributes
    ----------
    accumulators
        ``raw``, and ``unit`` for rows of unit length if requested.
    groups
        The same rows by their labels; None if none were requested. Always on the host.
    witnesses
        A few of the rows, to recognise them by; none in a state of version 1, nor in a sample.
    unit_maxima
        Of each unit of a sample, in the order read, the logarithm of its largest |z|^2, -inf for a unit of zeros, shape
        ``(units,)``. Not stored.
    """

    accumulators: dict[str, Accumulator]
    audit: Audit
    row_norms: RowNorms
    groups: GroupedRows | None = None
    witnesses: Witnesses = field(default_factory=Witnesses)
    unit_maxima: FloatArray = field(default_factory=lambda: np.empty(0))

    def merge(self, other: PartialResult) -> PartialResult:
        """Return both joined; neither changes."""
        merged = {key: mine.merge(other.accumulators[key]) for key, mine in self.accumulators.items()}
        groups = None
        if self.groups is not None and other.groups is not None:
            groups = self.groups.merge(other.groups)
        return PartialResult(
            merged, self.audit.merge(other.audit), self.row_norms.merge(other.row_norms), groups,
            self.witnesses.merge(other.witnesses), np.concatenate([self.unit_maxima, other.unit_maxima]),
        )  # fmt: skip

    def spectrum(self, key: str, unit_roundoff: float, confidence: float) -> Spectrum:
        """Return the spectrum of an accumulator; the intervals of a row sketch hold with that confidence."""
        spectrum = self.accumulators[key].spectrum(unit_roundoff=unit_roundoff)
        return spectrum if spectrum.raw.folded is None else replace(spectrum, confidence=confidence)

    def on(self, device: Device, arithmetic: Arithmetic) -> PartialResult:
        """Return the same on a device; itself if it is there already."""
        if all(accumulator.device is device for accumulator in self.accumulators.values()):
            return self
        return PartialResult.from_record(arithmetic, *self.to_record(), device)

    def on_basis(self, basis: OrthonormalBasis | None) -> PartialResult:
        """Return the same with the basis that an earlier pass found, which is not stored with it; itself if None.

        The rows and the rows of unit length share one basis.
        """
        if basis is None:
            return self
        accumulators = {
            key: one.on_basis(basis) if isinstance(one, NystromAccumulator) else one
            for key, one in self.accumulators.items()
        }
        return replace(self, accumulators=accumulators)

    def directions(self) -> OrthonormalBasis:
        """Return the basis that the next pass of a randomized SVD multiplies by."""
        raw = self.accumulators["raw"]
        assert isinstance(raw, NystromAccumulator)  # nothing else takes several passes
        return raw.directions()

    def to_record(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the result as JSON types and arrays of the host; ``from_record`` gives the same bits back."""
        plain: dict[str, Any] = {"audit": asdict(self.audit), "lengths": asdict(self.row_norms)}
        for device in {accumulator.device for accumulator in self.accumulators.values()} - {HOST}:
            cast(Card, device).finish()  # another thread may have merged it just now
        plain["witnesses"] = [[row, digest] for row, digest in self.witnesses.digests.items()]
        arrays = {
            f"{key}/{name}": array
            for key, accumulator in self.accumulators.items()
            for name, array in accumulator.to_arrays().items()
        }
        if self.groups is not None:
            plain["groups"], of_groups = self.groups.to_record()
            arrays |= {f"{_GROUPS}/{path}": array for path, array in of_groups.items()}
        return plain, arrays

    @classmethod
    def from_record(
        cls, arithmetic: Arithmetic, plain: Mapping[str, Any], arrays: Mapping[str, Array], device: Device = HOST
    ) -> PartialResult:
        """Return the partial result that ``to_record`` described, in the given arithmetic, on a device."""
        parts: dict[str, dict[str, Array]] = {}
        for path, array in arrays.items():
            key, _, name = path.partition("/")
            parts.setdefault(key, {})[name] = array
        of_groups = parts.pop(_GROUPS, {})
        groups = GroupedRows.from_record(plain["groups"], of_groups) if of_groups else None
        kind: Any = METHODS[arithmetic.method].accumulator(arithmetic.precision)
        accumulators = {key: kind.from_arrays(part, device) for key, part in parts.items()}
        witnesses = Witnesses(dict(plain.get("witnesses", ())))
        return cls(accumulators, Audit(**plain["audit"]), RowNorms(**plain["lengths"]), groups, witnesses)
