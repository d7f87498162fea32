"""Pilot: a few rows in random units, read to foretell the half-width that more rows would have."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rankme_stream.errors import LimitError, UsageError, argument
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.passes.planning.sample_cost import SampleCost, sample_cost
from rankme_stream.passes.planning.sample_design import SampleDesign
from rankme_stream.sources import Source
from rankme_stream.sources.row_values import read_values
from rankme_stream.spectra.expected_half_width import measured_variance

ROWS_PER_FEATURE = 4  # two halves of 2 D rows, each judged by the eigenvectors of the other
_LEAST_UNITS = 64
_NUMBERS = 11  # D x D numbers of float64 held at once: the rows, those of one half rotated, and an eigensolve


class Pilot(NamedTuple):
    """Variance of the influence of the rows that were read, and what reading them was expected to cost."""

    variance: float
    cost: SampleCost


def read_pilot(runner: PassRunner, design: SampleDesign) -> Pilot:
    """Read 4 D rows, in 64 random units or a few more, and return the variance of their influence on RankMe.

    Rows that are missing, not finite or no data are left out.

    Parameters
    ----------
    runner
        Runner of the source, which knows the rows and the limits.
    design
        Design of the sample whose half-width is foretold: the pilot's units are so many of its units side by side.

    Raises
    ------
    UsageError
        If the dump has fewer than 8 D rows, or so many of those that were read are zero or left out that less than D
        of a half remain.
    LimitError
        If 11 D x D numbers do not fit the memory limit.
    SourceError, StorageError
        If rows cannot be read.
    """
    n_features, wanted = design.n_features, ROWS_PER_FEATURE * design.n_features
    if 2 * wanted > design.n_rows:
        raise UsageError(
            f"a pilot reads {wanted:,} rows, {ROWS_PER_FEATURE} per feature, and there are {design.n_rows:,}: leave "
            f"{argument('pilot')} out"
        )
    limits = runner.engine.limits(runner.request.workers, runner.request.memory_limit)
    needed = limits.base_bytes + 8 * _NUMBERS * n_features**2
    if needed > limits.memory_limit_bytes:
        raise LimitError(
            f"a pilot of {n_features:,} features needs {needed / 2**30:,.2f} GiB and the limit is "
            f"{limits.memory_limit_bytes / 2**30:,.2f} GiB: leave {argument('pilot')} out, or raise "
            f"{argument('memory_limit')}"
        )
    unit_rows = design.unit_rows
    while 2 * unit_rows * _LEAST_UNITS <= wanted:
        unit_rows *= 2
    pilot = replace(design, unit_rows=unit_rows)
    halves = _read_halves(runner.source, pilot, -(-wanted // unit_rows))
    if not all(_count_rows(half) > n_features for half in halves):
        raise UsageError(
            f"too few of the rows that a pilot read are there, finite and not zero: leave {argument('pilot')} out"
        )
    cost = sample_cost(pilot, wanted, runner.source.bounds(*runner.rows), batch_rows=wanted)
    return Pilot(measured_variance(halves, design.unit_rows), cost)


def _read_halves(source: Source, design: SampleDesign, n_units: int) -> tuple[list[FloatArray], list[FloatArray]]:
    """Return the rows of random units, dealt in turn to two halves."""
    halves: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for unit, replicate in design.units(0, n_units).items():
        start, stop = design.rows(unit)
        values = read_values(source, start, stop)
        is_there = np.asarray(np.isfinite(values).all(axis=1))
        for low, high in source.missing(start, stop):
            is_there[low - start : high - start] = False
        halves[replicate % 2].append(values if is_there.all() else values[is_there])
    return halves


def _count_rows(half: list[FloatArray]) -> int:
    """Return the number of rows that are not zero throughout."""
    return sum(int(run.any(axis=1).sum()) for run in half)
