"""How many rows an interval of some width needs, foretold before they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import numpy as np

from rankme_stream.errors import UsageError, argument
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.pilot import read_pilot
from rankme_stream.measuring.request import Request
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices.registry import memory_errors_as_limits
from rankme_stream.passes.planning.sample_batches import segment_rows
from rankme_stream.passes.planning.sample_cost import SampleCost, sample_cost
from rankme_stream.passes.planning.sample_design import N_REPLICATES, SampleDesign, draw_design
from rankme_stream.sources import open_source
from rankme_stream.spectra.expected_half_width import (
    LEAST_ROWS_PER_FEATURE,
    expected_half_width,
    gaussian_variance,
    least_rows,
)

_ROWS_PER_FEATURE = (1.5, 2, 3, 4, 6, 10, 20, 40)
_DECAYS = {"equal": 0.0, "k^-1/2": 0.5, "k^-1": 1.0}  # of the singular values s_k


@dataclass(frozen=True)
class ReadingCost:
    """What reading some rows takes.

    Attributes
    ----------
    rows, units
        Rows, and the random units that they lie in.
    chunks
        Chunks that are opened, each as often as it is decoded: once a look. Chunks are runs of rows that are stored
        together, or units where a read may begin at any row.
    bytes_decoded
        Bytes of these chunks, uncompressed.
    price
        Price of so many bytes; None if none was given.
    """

    rows: int
    units: int
    chunks: int
    bytes_decoded: int
    price: float | None


@dataclass(frozen=True)
class ExpectedInterval:
    """Half-width of RankMe's interval that some rows lead to expect, relative to RankMe, by spectrum.

    ``cost`` is None where the dump does not have so many rows.
    """

    rows: int
    half_width: Mapping[str, float]
    cost: ReadingCost | None


@dataclass(frozen=True)
class RowsNeeded:
    """Rows that an interval of RankMe within a tolerance needs: an expectation, before they are read.

    Attributes
    ----------
    tolerance, confidence, population
        As requested.
    n_rows, n_features
        Shape of the dump, or of the range of rows.
    rows
        Fewest rows by spectrum: ``equal`` singular values, s ~ ``k^-1/2``, s ~ ``k^-1``; or ``pilot``. None if more
        than half of the dump, so that every row is read.
    points
        Expected intervals, by ascending number of rows.
    first_look
        Cost of the smallest sample that finds rare units; None if the dump is too small for one.
    pilot
        Cost of the pilot; None without one.
    """

    tolerance: float
    confidence: float
    population: bool
    n_rows: int
    n_features: int
    rows: Mapping[str, int | None]
    points: tuple[ExpectedInterval, ...]
    first_look: ReadingCost | None
    pilot: ReadingCost | None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        return asdict(self)


def rows_needed(
    source: Any,
    *,
    tolerance: float = 1e-3,
    confidence: float = 0.95,
    population: bool = False,
    rare: float = 0.01,
    rows: tuple[int | None, int | None] | None = None,
    seed: int = 0,
    pilot: bool = False,
    price_per_gb: float | None = None,
    memory_limit: int | None = None,
) -> RowsNeeded:
    """Return how many rows RankMe's interval needs to be within a tolerance, and what reading them takes.

    Reads metadata only, or a pilot. The half-widths are those that Gaussian rows of an ordinary spectrum lead to
    expect, or rows like those of the pilot. They are expectations: rows that are copies of one another, sorted, or of
    very uneven length need more. A measurement states the interval that its rows support, or none.

    Parameters
    ----------
    source, rows, memory_limit
        As in ``plan``.
    tolerance, confidence, seed
        As in ``measure``.
    population
        Take the interval to be for the distribution that the rows are drawn from, instead of for all rows of the dump.
    rare
        As in ``measure``: a sample for the rows of the dump opens enough chunks to find such a share of rare units.
    pilot
        Read 4 D rows, in 64 random units or a few more, and foretell by their influence on RankMe.
    price_per_gb
        Price of 10^9 decoded bytes; compressed chunks are shorter.

    Raises
    ------
    UsageError
        If an option has no such value, or a dump of fewer than 8 D rows is to be read by a pilot.
    SourceError, StorageError, LimitError
        As in ``plan``; also if the rows of a pilot cannot be read, or do not fit in memory.

    Notes
    -----
    Without a pilot, milliseconds. A pilot takes two eigensolves of order D.

    Examples
    --------
    >>> needed = rows_needed(np.zeros((400_000, 768), np.float16), tolerance=5e-3)
    >>> needed.rows["equal"] <= needed.rows["k^-1/2"] <= needed.rows["k^-1"] < 20_000
    True
    """
    check_price("price_per_gb", price_per_gb)
    request = Request(
        tolerance=tolerance, confidence=confidence, sample=not population, population=population, rare=rare, rows=rows,
        seed=seed, memory_limit=memory_limit,
    ).check()  # fmt: skip
    runner = PassRunner(open_source(source), request)
    reading = _Reading(runner, price_per_gb)
    if pilot:
        with blas_threads.one_thread(), memory_errors_as_limits():
            variance, cost = read_pilot(runner, reading.design)
        variances, pilot_cost = {"pilot": variance}, reading.priced(cost)
    else:
        places = np.arange(1.0, runner.source.shape[1] + 1.0)
        variances = {name: gaussian_variance(places**-decay) for name, decay in _DECAYS.items()}
        pilot_cost = None
    return reading.expected(variances, pilot_cost)


class _Reading:
    """Samples of the rows of a runner: their cost, and their expected intervals."""

    def __init__(self, runner: PassRunner, price_per_gb: float | None) -> None:
        self.design = runner.design()
        self._request, self._price = runner.request, price_per_gb
        self._bounds = runner.source.bounds(*runner.rows)
        self._row_bytes = runner.source.shape[1] * runner.source.stored.dtype.itemsize

    def priced(self, cost: SampleCost) -> ReadingCost:
        """Return a cost in bytes, and in money if there is a price."""
        n_bytes = cost.rows_decoded * self._row_bytes
        price = None if self._price is None else self._price * n_bytes / 1e9
        return ReadingCost(cost.rows, cost.units, cost.chunks, n_bytes, price)

    def expected(self, variances: Mapping[str, float], pilot: ReadingCost | None) -> RowsNeeded:
        """Return the rows needed by spectrum, and the intervals that some numbers of rows lead to expect."""
        request, design = self._request, self.design
        n_all = math.inf if request.population else float(design.n_rows)
        options = {"n_all": n_all, "confidence": request.confidence}
        needed = {
            name: least_rows(variance, request.tolerance, design.n_features, **options)
            for name, variance in variances.items()
        }
        least = 0 if request.population else design.first_look * design.unit_rows
        needed = {name: None if rows is None else self._within(max(rows, least)) for name, rows in needed.items()}
        points = tuple(
            ExpectedInterval(
                rows,
                {name: expected_half_width(one, rows, design.n_features, **options) for name, one in variances.items()},
                self._cost(rows),
            )
            for rows in sorted({*self._listed(least), *(rows for rows in needed.values() if rows is not None)})
        )
        return RowsNeeded(
            request.tolerance, request.confidence, request.population, design.n_rows, design.n_features, needed, points,
            self._first_look(), pilot,
        )  # fmt: skip

    def _cost(self, rows: int) -> ReadingCost | None:
        """Return the cost of a sample of so many rows, or of a pass over all; None for more than there are."""
        design = self.design
        if rows > design.n_rows:
            return None
        if rows == design.n_rows:
            return self.priced(SampleCost(rows, design.n_units, len(self._bounds) + 1, rows))
        return self._cost_of_sample(self._design_for(rows), rows)

    def _cost_of_sample(self, design: SampleDesign, rows: int) -> ReadingCost:
        batch_rows = N_REPLICATES * segment_rows(design, self._row_bytes)
        return self.priced(sample_cost(design, rows, self._bounds, batch_rows=batch_rows))

    def _listed(self, least: int) -> Iterator[int]:
        """Yield the numbers of rows to show: of a sample of a dump, up to half of it; always those of the dump."""
        n_rows, n_features = self.design.n_rows, self.design.n_features
        for ratio in _ROWS_PER_FEATURE:
            rows = math.ceil(ratio * n_features)
            if self._request.population or least <= rows <= n_rows / 2:
                yield rows
        if n_rows > LEAST_ROWS_PER_FEATURE * n_features:
            yield n_rows

    def _within(self, rows: int) -> int | None:
        """Return a number of rows that a sample may read, or None; any number for a population."""
        return rows if self._request.population or 2 * rows <= self.design.n_rows else None

    def _design_for(self, rows: int) -> SampleDesign:
        """Return the design of a sample of so many rows: below its first look it is one that may not read more."""
        design = self.design
        if rows >= design.first_look * design.unit_rows:
            return design
        return draw_design(
            rows=(design.row_start, design.row_stop), n_features=design.n_features, seed=design.seed, rare=design.rare,
            max_rows=rows,
        )  # fmt: skip

    def _first_look(self) -> ReadingCost | None:
        design = self.design
        if next(design.looks(), None) is None:
            return None
        return self._cost_of_sample(design, design.first_look * design.unit_rows)


def check_price(name: str, price: Any) -> None:
    """Raise ``UsageError`` for a price that is no finite number of 0 or more; None is no price."""
    is_number = isinstance(price, Real) and not isinstance(price, bool)
    if price is not None and not (is_number and 0.0 <= price < math.inf):
        raise UsageError(f"{argument(name)} is {price!r} and must be a finite number of 0 or more")
