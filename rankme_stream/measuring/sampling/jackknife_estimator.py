"""Estimates from 10 rows a feature on, or 20 of a population: the jackknife over replicates, behind its gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal

from rankme_stream.errors import SpectrumError
from rankme_stream.measuring.sampling import gates
from rankme_stream.measuring.sampling.gates import Withheld
from rankme_stream.measuring.sampling.replicates import MeasuredSpread
from rankme_stream.measuring.sampling.units_read import UnitsRead
from rankme_stream.spectra.estimates import Metric
from rankme_stream.spectra.jackknife import JackknifeSpread, largest_deviation
from rankme_stream.spectra.spectrum import Spectrum
from rankme_stream.spectra.spread import Spread

NOT_OF_A_SAMPLE = "a sample does not determine the smallest singular values"


class JackknifeEstimator:
    """``LookEstimator`` by the jackknife.

    Parameters
    ----------
    units
        What was read.
    most_rows
        Most rows that a sample would take: half of all, or infinitely many of a population.
    """

    name: Literal["jackknife"] = "jackknife"

    def __init__(self, units: UnitsRead, most_rows: float) -> None:
        self._units, self._most_rows = units, most_rows

    def spectrum(self, kind: str, n_features: int | None = None) -> Spectrum:
        """Return the spectrum of the rows read."""
        return self._units.jackknife(kind, n_features).spectrum

    @cached_property
    def rankme(self) -> Spread | Withheld:
        """Spread of RankMe, or why none is stated."""
        withheld = next((one for one in self._gates() if one is not None), None)
        if withheld is not None:
            return withheld
        assert self._measured is not None
        return self._measured.spread

    def _gates(self) -> Iterator[Withheld | None]:
        """Yield what each gate says, the cheapest gates first."""
        units = self._units
        yield gates.only_zeros(units)
        yield gates.uneven_rows(units, self._most_rows)
        yield gates.empty_replicate(self._units.jackknife("raw").replicate_rows)
        yield gates.uneven_replicates(units)
        yield gates.coarse_arithmetic(self.spectrum("raw").raw.values[0])
        yield gates.heavy_tail(units.tail, self._most_rows)
        assert self._measured is not None
        yield gates.seen_once(largest_deviation(self._measured.pseudo_values), len(units.replicates))
        yield gates.large_bias(self._measured)

    @cached_property
    def _measured(self) -> MeasuredSpread | None:
        """RankMe of the rows read with its spread; None where it has none without some replicate."""
        jackknife = self._units.jackknife("raw")
        if not self._units.whole.row_norms.squares or not all(jackknife.replicate_rows):
            return None
        with suppress(SpectrumError):  # all energy lies in one replicate, or is lost to the arithmetic
            return jackknife.rankme()
        return None

    @property
    def standard_error(self) -> float | None:
        """Standard error of RankMe for infinitely many rows, whatever the gates say; None if there is none."""
        return None if self._measured is None else self._measured.spread.standard_error

    def spreads(self, table: Mapping[str, Metric], kind: str, n_features: int | None = None) -> dict[str, Spread | str]:
        """Return the spread of every metric of a table, or why it has none."""
        jackknife = self._units.jackknife(kind, n_features)
        empty = gates.empty_replicate(jackknife.replicate_rows)
        if empty is not None:
            return dict.fromkeys(table, empty.reason)
        found = jackknife.spreads(table)
        return {name: _spread_or_reason(metric, found.get(name)) for name, metric in table.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the deviation of the replicate that differs most from the others, as JSON types."""
        measured = self._measured
        return {"largest_replicate": None if measured is None else largest_deviation(measured.pseudo_values)}


def _spread_or_reason(metric: Metric, spread: JackknifeSpread | None) -> Spread | str:
    if spread is None:
        return NOT_OF_A_SAMPLE
    if abs(spread.bias) > metric.largest_bias * spread.standard_error:
        return "singular values lie too close together for these rows to determine their order"
    return spread
