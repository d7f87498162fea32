"""Estimates from the rows that were read: for these rows, for all rows, or for their population."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rankme_stream.groups.group_scores import GroupScores
from rankme_stream.groups.lidar import estimate_lidar
from rankme_stream.measuring.completed_pass import CompletedPass
from rankme_stream.measuring.sampling.sample import Sample
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.audit import Audit
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
    """Results of the rows read: the plan, what was counted, and every requested number."""

    plan: Plan
    rows_read: int
    audit: Audit
    spectrum: Spectrum
    estimates: dict[str, Estimate]
    presets: dict[str, Estimate]
    normalized: dict[str, Estimate]
    dims: dict[int, dict[str, Estimate]]
    groups: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)


def tables_of_rows(done: CompletedPass, unit_roundoff: float, normalize: bool, dims: Sequence[int]) -> EstimateTables:
    """Return the estimates from a pass over every row."""
    accumulators, groups = done.partial.accumulators, done.partial.groups
    estimates = estimate_all(done.spectrum)
    if groups is not None:
        lidar = estimate_lidar(groups, confidence=done.confidence, workers=done.plan.workers)
        counted = {"rows_unlabelled": groups.n_unlabelled} if groups.n_unlabelled else {}
        estimates["lidar"] = replace(lidar, details={**lidar.details, **counted})
    return EstimateTables(
        done.plan,
        accumulators["raw"].n_rows,
        done.partial.audit,
        done.spectrum,
        estimates,
        estimate_presets(done.spectrum),
        estimate_normalized(done.partial.spectrum("unit", unit_roundoff, done.confidence)) if normalize else {},
        {d: estimate_all(accumulators["raw"].prefix(d).spectrum(unit_roundoff=unit_roundoff)) for d in sorted({*dims})},
        {} if groups is None else GroupScores(groups.closed),
    )


def tables_of_sample(sample: Sample, normalize: bool, dims: Sequence[int]) -> EstimateTables:
    """Return the estimates from a sample, for the rows that it represents."""
    return EstimateTables(
        sample.plan,
        sample.whole.accumulators["raw"].n_rows,
        sample.whole.audit,
        sample.spectrum,
        sample.estimates("raw", METRICS, estimate_all),
        sample.estimates("raw", PRESETS, estimate_presets),
        sample.estimates("unit", NORMALIZED, estimate_normalized) if normalize else {},
        {d: sample.estimates("raw", METRICS, estimate_all, d) for d in sorted({*dims})},
    )


def tables_of_population(tables: EstimateTables, sample: Sample | None, reason: str) -> EstimateTables:
    """Return the estimates from every row as estimates for their population.

    ``sample`` shows how the rows vary; if it is None, ``reason`` says why.
    """

    def widen(
        kind: str, table: Mapping[str, Metric], exact: dict[str, Estimate], n_features: int | None = None
    ) -> dict[str, Estimate]:
        if sample is None:
            return {name: Estimate(None, reason=reason, details=one.details) for name, one in exact.items()}
        return sample.of_population(kind, table, exact, n_features)

    return replace(
        tables,
        estimates=widen("raw", METRICS, tables.estimates),
        presets=widen("raw", PRESETS, tables.presets),
        normalized=widen("unit", NORMALIZED, tables.normalized) if tables.normalized else {},
        dims={d: widen("raw", METRICS, exact, d) for d, exact in tables.dims.items()},
    )
