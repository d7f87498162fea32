"""Units of a sample, read batch by batch into their replicates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rankme_stream.accumulators.float32_gram import overflow_error
from rankme_stream.errors import ArithmeticCheckError, MagnitudeError, RankMeError
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.passes.engines.engine import Progress, Report
from rankme_stream.passes.loop.gathering import Gatherer, refuse_faults, values_of_runs
from rankme_stream.passes.planning import sample_batches
from rankme_stream.passes.planning.block_layout import largest_unit
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.planning.sample_batches import SampleBatch
from rankme_stream.passes.planning.sample_design import SampleDesign
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.sources import GatheredRows


@dataclass(frozen=True)
class KeptRows:
    """Rows of a random part of the units read, without those left out, decoded.

    Attributes
    ----------
    rows
        Shape ``(r, D)``, float64.
    unit, replicate
        Number of the unit of each row in the design, and its replicate, shape ``(r,)``; rows of a unit are neighbours.
    """

    rows: FloatArray
    unit: Array
    replicate: Array


class UnitReader:
    """Reads units of a design into one partial result for each replicate.

    Parameters
    ----------
    plan
        Plan of the sample.

    Attributes
    ----------
    replicates
        Partial results by the number of the replicate.
    rows_decoded
        Number of rows in the chunks decoded so far; a chunk decoded again counts again.
    progress
        Rows, bytes and seconds of reading so far. Rows count half when they are in memory, and half when they are
        accumulated.
    """

    def __init__(self, runner: PassRunner, plan: Plan, design: SampleDesign) -> None:
        self._runner, self._plan, self._design = runner, plan, design
        self._bounds = runner.source.bounds(*runner.rows)
        self._most_rows = min(design.n_rows, max(plan.block_rows, largest_unit(self._bounds, *runner.rows)))
        readers = sample_batches.most_readers(
            plan.workers, runner.source.read_memory(self._most_rows), reads_ahead=plan.reads_ahead
        )
        self._gatherer = Gatherer(runner.rules, plan.workers, readers)
        self.replicates: dict[int, PartialResult] = {}
        self.rows_decoded = 0
        self.progress = Progress(0, 0, 0, 0.0)
        n_kept = sample_batches.units_kept(design)
        self._to_keep = frozenset(design.units(0, n_kept))
        self._kept = np.empty((n_kept * design.unit_rows, design.n_features))
        self._kept_of = np.empty((2, n_kept * design.unit_rows), np.int64)  # unit and replicate of each row
        self._n_kept = 0

    def kept_rows(self) -> KeptRows | None:
        """Return the rows kept so far; None if the design has rows enough for the jackknife. Nothing is copied."""
        if not self._to_keep:
            return None
        unit, replicate = self._kept_of[:, : self._n_kept]
        return KeptRows(self._kept[: self._n_kept], unit, replicate)

    def read(self, start: int, stop: int, progress: Report | None = None) -> None:
        """Read units ``start`` to ``stop`` - 1 of the random order, whole rounds of the replicates.

        Raises
        ------
        RankMeError
            The error of the first faulty row of a batch, in the order of the dump; messages name the row there.
        """
        began, before, memory = time.perf_counter(), self.progress, _Memory(self._runner)
        staged_before, bytes_before, computed = self._gatherer.rows_done, self._gatherer.bytes_read, 0
        batches = list(sample_batches.batches(self._design, start, stop, self._plan.grid.segment_rows))
        n_rows = sum(self._n_rows(batch) for batch in batches)

        def report(computing: int = 0) -> None:
            done = (self._gatherer.rows_done - staged_before + computed + computing) // 2
            self.progress = Progress(
                before.rows_done + done, before.rows_total + n_rows,
                before.bytes_read + self._gatherer.bytes_read - bytes_before,
                before.elapsed_s + time.perf_counter() - began,
            )  # fmt: skip
            if progress is not None:
                progress(self.progress)

        for batch in batches:
            starts = [self._design.rows(unit)[0] for units in batch.units for unit in units]
            rows = memory.room(self._n_rows(batch))
            gathered = GatheredRows(self._runner.source, rows, starts, self._design.unit_rows)
            reads = list(
                sample_batches.chunk_reads(gathered.runs(), self._bounds, self._most_rows, self._design.row_stop)
            )
            self._gatherer.read(gathered, reads, report)
            self.rows_decoded += sample_batches.rows_decoded(reads, self._bounds, self._runner.rows)
            self._accumulate(batch, gathered, lambda now: report(now.rows_done))
            self._keep(batch, gathered)
            computed += self._n_rows(batch)
        self._runner.bytes_read += self._gatherer.bytes_read - bytes_before
        report()

    def _n_rows(self, batch: SampleBatch) -> int:
        first, last = self._design.rows(batch.units[-1][-1])
        return sum(map(len, batch.units)) * self._design.unit_rows - (self._design.unit_rows - (last - first))

    def _accumulate(self, batch: SampleBatch, gathered: GatheredRows, report: Report) -> None:
        """Accumulate a batch: the rows of each replicate are one segment."""

        def add(segment: int, partial: PartialResult) -> None:
            number = batch.replicates[segment]
            partial = replace(partial, audit=partial.audit.renumbered(gathered.row_of))
            before = self.replicates.get(number)
            self.replicates[number] = partial if before is None else before.merge(partial)

        n_rows, segment_rows = gathered.shape[0], len(batch.units[0]) * self._design.unit_rows
        grid = replace(self._plan.grid, segment_rows=segment_rows)
        plan = replace(self._plan, row_start=0, row_stop=n_rows, grid=grid)
        try:
            self._runner.read_gathered(plan, gathered, add, report)
        except RankMeError as error:
            refuse_faults(gathered, self._runner.rules)
            if isinstance(error, MagnitudeError):  # whose squares overflow together
                numbers = [start for start, _ in gathered.runs()]
                raise overflow_error(numbers[0], numbers[-1] + self._design.unit_rows) from None
            if isinstance(error, ArithmeticCheckError):
                error.add_note("rows of a sample are counted as they lie in memory")
            raise

    def _keep(self, batch: SampleBatch, gathered: GatheredRows) -> None:
        """Keep the rows of the units of a batch that are to be kept."""
        of_unit: Mapping[int, tuple[int, int]] = {
            self._design.rows(unit)[0]: (unit, replicate)
            for units, replicate in zip(batch.units, batch.replicates, strict=True)
            for unit in units
            if unit in self._to_keep
        }
        runs = (run for run in gathered.runs() if run[0] in of_unit)
        for start, values in values_of_runs(gathered, self._runner.rules, runs):
            here = slice(self._n_kept, self._n_kept + len(values))
            self._kept[here], self._kept_of[:, here] = values, np.array([of_unit[start]]).T
            self._n_kept += len(values)


class _Memory:
    """Memory for the rows of batches, one after another, where the source has its rows."""

    def __init__(self, runner: PassRunner) -> None:
        self._source = runner.source
        self._rows: Any = None

    def room(self, n_rows: int) -> Any:
        """Return memory for some rows, that of the last batch if it is large enough."""
        if self._rows is None or self._rows.shape[0] < n_rows:
            self._rows = None  # frees it before more is taken
            source, shape = self._source, (n_rows, self._source.shape[1])
            device = getattr(source, "device", HOST)
            if device is HOST:
                self._rows = np.empty(shape, source.stored.dtype)
            else:
                self._rows = device.empty(shape, source.read(0, 1))
        return self._rows[:n_rows, :]
