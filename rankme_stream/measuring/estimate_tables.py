"""The numbers of the rows that were read, of all rows or of what they were drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rankme_stream.groups.group_scores import GroupScores
from rankme_stream.groups.lidar import estimate_lidar
from rankme_stream.measuring.completed_pass import CompletedPass
from rankme_stream.measuring.sampling.sample import Sample
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.spectra.estimates import (
    METRICS,
    NORMALIZED,
    PRESETS,
    Estimate,
    Metric,
    estimate_all,
    estimate_normalized,
    estimate_presets,
)
from rankme_stream.spectra.spectrum import Spectrum


@dataclass(frozen=True)
class EstimateTables:
    """What the rows read came to: the plan, the accumulators, and every number asked for."""

    plan: Plan
    partial: PartialResult
    spectrum: Spectrum
    estimates: dict[str, Estimate]
    presets: dict[str, Estimate]
    normalized: dict[str, Estimate]
    dims: dict[int, dict[str, Estimate]]
    groups: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)


def tables_of_rows(done: CompletedPass, unit_roundoff: float, normalize: bool, dims: Sequence[int]) -> EstimateTables:
    """Return the numbers of a pass over every row."""
    accumulators, groups = done.partial.accumulators, done.partial.groups
    estimates = estimate_all(done.spectrum)
    if groups is not None:
        estimates["lidar"] = estimate_lidar(groups, confidence=done.confidence, workers=done.plan.workers)
    return EstimateTables(
        done.plan,
        done.partial,
        done.spectrum,
        estimates,
        estimate_presets(done.spectrum),
        estimate_normalized(done.partial.spectrum("unit", unit_roundoff, done.confidence)) if normalize else {},
        {d: estimate_all(accumulators["raw"].prefix(d).spectrum(unit_roundoff=unit_roundoff)) for d in sorted({*dims})},
        {} if groups is None else GroupScores(groups.closed),
    )


def tables_of_sample(part: Sample, normalize: bool, dims: Sequence[int]) -> EstimateTables:
    """Return the numbers of a sample, for the rows that it stands for."""
    return EstimateTables(
        part.plan,
        part.whole,
        part.spectrum,
        part.estimates("raw", METRICS, estimate_all),
        part.estimates("raw", PRESETS, estimate_presets),
        part.estimates("unit", NORMALIZED, estimate_normalized) if normalize else {},
        {d: part.estimates("raw", METRICS, estimate_all, d) for d in sorted({*dims})},
    )


def tables_of_population(found: EstimateTables, answer: Sample | None, reason: str) -> EstimateTables:
    """Return the numbers of every row as estimates of what the rows were drawn from.

    ``answer`` tells how they vary; where there is none, ``reason`` says why.
    """

    def widened(
        kind: str, table: Mapping[str, Metric], exact: dict[str, Estimate], n_features: int | None = None
    ) -> dict[str, Estimate]:
        if answer is None:
            return {name: Estimate(None, reason=reason, details=one.details) for name, one in exact.items()}
        return answer.of_population(kind, table, exact, n_features)

    return replace(
        found,
        estimates=widened("raw", METRICS, found.estimates),
        presets=widened("raw", PRESETS, found.presets),
        normalized=widened("unit", NORMALIZED, found.normalized) if found.normalized else {},
        dims={d: widened("raw", METRICS, exact, d) for d, exact in found.dims.items()},
    )
