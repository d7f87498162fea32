"""Estimates from 1.25 rows a feature on, where they are few: random-matrix theory, behind its gates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np

from rankme_stream.accumulators.accumulator import HasGram
from rankme_stream.measuring.sampling import gates
from rankme_stream.measuring.sampling.gates import Withheld
from rankme_stream.measuring.sampling.jackknife_estimator import NOT_OF_A_SAMPLE, JackknifeEstimator
from rankme_stream.measuring.sampling.replicates import Jackknife
from rankme_stream.measuring.sampling.unit_reader import KeptRows
from rankme_stream.measuring.sampling.units_read import UnitsRead
from rankme_stream.passes.planning import sample_design
from rankme_stream.passes.state.row_norms import scale_rows
from rankme_stream.spectra.contour import NoEstimateError
from rankme_stream.spectra.contour_spread import ContourSpread
from rankme_stream.spectra.estimates import METRICS, Metric
from rankme_stream.spectra.population import Population, SampledRows
from rankme_stream.spectra.spectrum import Spectrum
from rankme_stream.spectra.spread import Spread


class RandomMatrixEstimator:
    """``LookEstimator`` by random-matrix theory.

    Parameters
    ----------
    units
        What was read.
    kept
        Rows kept of it.
    most_rows
        Most rows that a sample takes: half of all, or infinitely many of a population.
    """

    name: Literal["random-matrix"] = "random-matrix"

    def __init__(self, units: UnitsRead, kept: KeptRows, most_rows: float) -> None:
        self._units, self._kept, self._most_rows = units, kept, most_rows
        self._kinds: dict[str, _RowsOfKind] = {}

    def _of(self, kind: str, n_features: int | None = None) -> _RowsOfKind:
        if kind in self._kinds and n_features is None:
            return self._kinds[kind]
        jackknife = self._units.jackknife(kind, n_features)
        kept = _kept_of(self._kept, kind, jackknife.whole.n_features)
        found = _RowsOfKind(jackknife, kept, self._units)
        if n_features is None:
            self._kinds[kind] = found
        return found

    def spectrum(self, kind: str, n_features: int | None = None) -> Spectrum:
        """Return the spectrum of the rows read."""
        return self._of(kind, n_features).jackknife.spectrum

    @cached_property
    def rankme(self) -> Spread | Withheld:
        """Spread of RankMe, or why none is stated."""
        withheld = next((one for one in self._gates() if one is not None), None)
        if withheld is not None:
            return withheld
        assert isinstance(self._measured, ContourSpread)
        return self._measured

    def _gates(self) -> Iterator[Withheld | None]:
        """Yield what each gate says, the cheapest gates first."""
        units = self._units
        yield gates.only_zeros(units)
        yield gates.empty_replicate(self._of("raw").jackknife.replicate_rows)
        yield gates.uneven_replicates(units)
        yield gates.coarse_arithmetic(self.spectrum("raw").raw.values[0])
        # A dump has one number of giant rows, and the sample another. A population has a share of them: a gate would
        # keep the samples without any, so its interval allows for them (`spectra.population`).
        is_dump = math.isfinite(self._most_rows)
        if is_dump:
            yield gates.heavy_tail(units.tail, self._most_rows)
        found = self._measured
        if isinstance(found, str):
            yield Withheld(found)
        elif is_dump:
            yield gates.seen_once(found.estimate.largest_deviation, len(units.replicates))

    @cached_property
    def _measured(self) -> ContourSpread | str:
        return self._spread(METRICS["rankme"], self._of("raw"))

    @property
    def standard_error(self) -> float | None:
        """Standard error of RankMe for infinitely many rows, whatever the gates of a dump say; None without a value."""
        has_rows = self._units.whole.row_norms.squares and all(self._of("raw").jackknife.replicate_rows)
        found = self._measured if has_rows else ""
        return found.standard_error if isinstance(found, ContourSpread) else None

    def spreads(self, table: Mapping[str, Metric], kind: str, n_features: int | None = None) -> dict[str, Spread | str]:
        """Return the spread of every metric of a table, or why it has none; by the jackknife where rows are many."""
        if n_features is not None and self._are_many(n_features):
            jackknife = JackknifeEstimator(self._units, self._most_rows)
            return jackknife.spreads(table, kind, n_features)
        rows = self._of(kind, n_features)
        empty = gates.empty_replicate(rows.jackknife.replicate_rows)
        if empty is not None:
            return dict.fromkeys(table, empty.reason)
        return {name: self._spread(metric, rows) for name, metric in table.items()}

    def _are_many(self, n_features: int) -> bool:
        """Return whether the rows are as many as the jackknife needs for so many features."""
        units = self._units
        is_even = units.whole.row_norms.effective_rows >= sample_design.ROWS_PER_FEATURE * n_features
        return is_even and units.n_rows >= self._rows_per_feature(n_features) * n_features

    def _rows_per_feature(self, n_features: int) -> float:
        """Return the rows per feature from which on the jackknife judges: for all features of a population, more."""
        is_of_population = math.isinf(self._most_rows) and n_features == self._units.n_features
        return sample_design.POPULATION_ROWS if is_of_population else sample_design.MANY_ROWS

    def _spread(self, metric: Metric, rows: _RowsOfKind) -> ContourSpread | str:
        if not metric.allows_sampling:
            return NOT_OF_A_SAMPLE
        n_rows, n_features = rows.jackknife.whole.n_rows, rows.jackknife.whole.n_features
        per_feature = self._rows_per_feature(n_features)
        enough = math.ceil(per_feature * n_features)
        if metric.contour_sum is None or n_features > metric.contour_sum.most_features:
            if n_rows >= enough:
                return f"the rows are of so uneven length that this number needs more than {per_feature:g} per feature"
            return f"{n_rows:,} rows are fewer than {per_feature:g} per feature, and this number needs {enough:,}"
        try:
            spread = ContourSpread(rows.population(centered=metric.centered), metric.contour_sum, n_features)
            reason = spread.population.reason_withheld
            spread.estimate  # noqa: B018 - it may be none
        except NoEstimateError as error:
            reason = str(error)
        if reason is None:
            return spread
        return f"{n_rows:,} rows of {n_features:,} features give no interval: {reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return the rows that those read count as, as JSON types."""
        found = None if isinstance(self.rankme, Withheld) else self._measured
        if not isinstance(found, ContourSpread):
            return {"largest_replicate": None, "equivalent_rows": None}
        return {
            "largest_replicate": found.estimate.largest_deviation,
            "equivalent_rows": found.population.held_out.equivalent_rows,
        }


class _RowsOfKind:
    """Rows of one kind, raw or of unit length, of all features or of the first: their jackknife and those kept."""

    def __init__(self, jackknife: Jackknife, kept: KeptRows, units: UnitsRead) -> None:
        self.jackknife, self._kept, self._units = jackknife, kept, units
        self._found: dict[bool, Population | NoEstimateError] = {}

    def population(self, *, centered: bool) -> Population:
        """Return what the rows, or the rows about their mean, say of their population.

        Raises
        ------
        NoEstimateError
            If that is nothing.
        """
        if centered not in self._found:
            try:
                self._found[centered] = Population.measure(self._sampled(centered=centered))
            except NoEstimateError as error:
                self._found[centered] = error
        found = self._found[centered]
        if isinstance(found, NoEstimateError):
            raise found
        return found

    def _sampled(self, *, centered: bool) -> SampledRows:
        whole, kept = cast(HasGram, self.jackknife.whole), self._kept
        lower, exponent = whole.scaled_gram(centered=centered)
        rows = np.ldexp(kept.rows, exponent) if exponent else kept.rows
        if centered:
            rows = rows - np.ldexp(whole.sums(), exponent) / whole.n_rows
        spectrum = self.jackknife.spectrum
        ends = (spectrum.centered if centered else spectrum.raw).consistent.lower
        sure = int(np.count_nonzero(ends))  # the arithmetic cannot distinguish the others from zeros
        values, vectors = np.linalg.eigh(lower)
        without = [np.ldexp(one[:sure], exponent) ** 2 for one in self.jackknife.values_without(centered=centered)]
        return SampledRows(
            values=values[values.size - sure :],
            vectors=vectors[:, values.size - sure :],
            n_rows=whole.n_rows - centered,
            without=without,
            rows_of=self.jackknife.replicate_rows,
            rows=rows,
            unit=kept.unit,
            replicate=kept.replicate,
            independent_rows=self._units.independence.independent_rows,
        )


def _kept_of(kept: KeptRows, kind: str, n_features: int) -> KeptRows:
    """Return the first features of the rows kept, scaled to unit length, without those of zeros, for ``unit``."""
    rows = kept.rows[:, :n_features]
    if kind == "raw":
        return replace(kept, rows=rows)
    scaled = np.empty((len(rows), 1 + n_features))
    scale_rows(np.concatenate([np.ones((len(rows), 1)), rows], axis=1), scaled)
    nonzero = scaled[:, 0] != 0.0
    return KeptRows(scaled[nonzero, 1:], kept.unit[nonzero], kept.replicate[nonzero])
