"""Which arithmetic reads the rows, and whether they are read again by a better one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from rankme_stream import machine
from rankme_stream.arrays import StoredType
from rankme_stream.blocks import missing_message
from rankme_stream.engines import local
from rankme_stream.errors import (
    ArithmeticCheckError,
    LimitError,
    MagnitudeError,
    MissingChunksError,
    SourceChangedError,
    SourceError,
    UsageError,
)
from rankme_stream.estimates import Estimate, estimate_rankme, is_within
from rankme_stream.ledger import Forest
from rankme_stream.partial import ACCUMULATORS, Partial, Rung
from rankme_stream.passes import Task
from rankme_stream.planning import Cut, Plan, grid_for, make_plan, spanning
from rankme_stream.sampling import N_GROUPS, Design
from rankme_stream.sources import BlockStream, Source, Window
from rankme_stream.spectrum import Spectrum

_FLOAT32_PAYS_FROM = 512  # features; below, rounding the rows to float32 takes what its products save
_PILOT_ROWS = 4  # in features: enough for the spectrum's shape
_PILOT_SHARE = 1 / 80  # a pilot longer than this share of the rows could cost a pass in vain more than 3 %
_PILOT_MARGIN = 2.0  # a sample of the rows and of the panels may be off by so much


def rungs_for(method: str, precision: str) -> list[Rung]:
    """Return the arithmetics that may be tried, cheapest first.

    Raises
    ------
    UsageError
        For names that are not known and pairs that do not go together.
    """
    if method not in ("auto", "gram", "tsqr"):
        raise UsageError(f"method {method!r} is not one of auto, gram, tsqr")
    if precision not in ("float64", "float32", "auto"):
        raise UsageError(f"precision {precision!r} is not one of float64, float32, auto")
    rungs = [rung for rung in ACCUMULATORS if method in ("auto", rung[0]) and precision in ("auto", rung[1])]
    if not rungs:
        raise UsageError("tsqr works in float64 only: its error is not measured; leave --precision out")
    return rungs


@dataclass(frozen=True)
class Pass:
    """What one pass over the rows came to."""

    plan: Plan
    partial: Partial
    spectrum: Spectrum
    rankme: Estimate

    def is_within(self, tolerance: float) -> bool:
        """Whether RankMe's interval is as narrow as that, relative to RankMe."""
        return is_within(self.rankme, self.spectrum, tolerance)

    def describe(self) -> dict[str, Any]:
        """Return its arithmetic and what it left open."""
        return {
            "method": self.plan.method,
            "precision": self.plan.precision,
            "half_width": self.rankme.half_width,
        }


@dataclass
class Reader:
    """Rows of one source, and how to read them, as often as it takes.

    Attributes
    ----------
    bytes_read
        Bytes decoded so far, pilots included.
    passes
        What ``Pass.describe`` says of every pass so far.
    refused
        Why the last arithmetic that did not fit the memory limit was left out.
    """

    source: Source
    rows: tuple[int, int]
    normalize: bool
    workers: int | None
    memory_limit: int | None
    missing: Literal["error", "skip", "fill"]
    nonfinite: Literal["error", "skip"]

    def __post_init__(self) -> None:
        self.bytes_read = 0
        self.refused: str | None = None
        self.passes: list[dict[str, Any]] = []

    def plan(self, rung: Rung, drawn: Design | None = None) -> Plan:
        """Return the plan of a pass by that arithmetic, or of a sample.

        Raises
        ------
        LimitError
            When none fits.
        """
        sample = (drawn.unit_rows, N_GROUPS, drawn.first_look * drawn.unit_rows) if drawn else None
        return self._plan(rung, self.rows, self.normalize, sample)

    def _plan(
        self, rung: Rung, rows: tuple[int, int], normalize: bool, sample: tuple[int, int, int] | None = None
    ) -> Plan:
        return make_plan(
            method=rung[0],
            precision=rung[1],
            normalize=normalize,
            rows=rows,
            n_features=self.source.shape[1],
            itemsize=self.source.stored.dtype.itemsize,
            bounds=self.source.bounds(*rows),
            read_memory=self.source.read_memory,
            base_bytes=machine.resident_bytes(),
            memory_limit_bytes=machine.memory_bytes() // 2 if self.memory_limit is None else self.memory_limit,
            workers=self.workers,
            cores=machine.cores(),
            sample=sample,
        )

    def fingerprint(self) -> str:
        """Return what identifies the stored rows; missing chunks are refused here where they are to be."""
        fingerprint = self.source.fingerprint(*self.rows)
        gaps = self.source.missing(*self.rows)
        if gaps and self.missing == "error":
            raise MissingChunksError(missing_message(self.source, *gaps[0]))
        return fingerprint

    def check_unchanged(self, fingerprint: str) -> None:
        """Raise ``SourceChangedError`` if the stored rows are not those of that fingerprint any more."""
        if self.source.fingerprint(*self.rows) != fingerprint:
            raise SourceChangedError(
                f"{self.source.uri} changed while it was read; no number is given, run again when nothing writes to it"
            )

    def climb(
        self,
        rungs: list[Rung],
        tolerance: float,
        fingerprint: str,
        progress: Callable[[local.Progress], None] | None,
    ) -> Pass:
        """Read the rows by one arithmetic after another until RankMe's interval is within the tolerance.

        Returns
        -------
        Pass
            The last that fitted the memory limit; also when none met the tolerance.

        Raises
        ------
        SourceError
            If the rows are refused, or changed while they were read.
        LimitError
            If none fits the memory limit.
        """
        done: Pass | None = None
        for rung in rungs:
            try:
                done = self._read(self.plan(rung), progress)
            except MagnitudeError:
                if rung[1] == "float64" or rung is rungs[-1]:
                    raise
                continue
            except LimitError as error:
                if done is None and rung is rungs[-1]:
                    raise
                self.refused = str(error)
                continue
            self.check_unchanged(fingerprint)
            self.passes.append(done.describe())
            if done.is_within(tolerance):
                break
        assert done is not None  # the last rung raises
        _check_not_empty(done, self.source.uri)
        return done

    def float32_will_do(self, tolerance: float) -> bool:
        """Say from a pilot whether float32 is likely to meet the tolerance; False where a pilot does not pay."""
        start, stop = self.rows
        end = start + _PILOT_ROWS * self.source.shape[1]
        read_to = max(end, next(iter(self.source.bounds(start, stop)), stop))
        if self.source.shape[1] < _FLOAT32_PAYS_FROM or read_to > start + (stop - start) * _PILOT_SHARE:
            return False
        with suppress(MagnitudeError, LimitError):  # of float32; float64 finds its own
            pilot = self._read(self._plan(("gram", "float32"), (start, end), False), None)
            return pilot.is_within(tolerance / _PILOT_MARGIN)
        return False

    def read_units(
        self,
        plan: Plan,
        units: Sequence[int],
        cuts: Sequence[Cut],
        add: Callable[[int, Partial], None],
        progress: Callable[[local.Progress], None] | None,
    ) -> None:
        """Read some units of a sample, which are the segments of its plan."""

        def counted(unit: int, partial: Partial) -> None:
            first, last = unit * plan.grid.segment_rows, (unit + 1) * plan.grid.segment_rows
            _check_count(partial, min(last, plan.row_stop) - max(first, plan.row_start), self.missing)
            add(unit, partial)

        task = self._task(plan, weigh=True)
        self.bytes_read += local.run_segments(task, units, cuts, counted, sum(cut.n_used for cut in cuts), progress)

    def read_into(self, forest: Forest[Partial], plan: Plan, progress: Callable[[local.Progress], None] | None) -> None:
        """Read the rows of a plan into a forest."""
        self.bytes_read += local.run_into(forest, self._task(plan), progress)

    def _read(self, plan: Plan, progress: Callable[[local.Progress], None] | None) -> Pass:
        forest = Forest[Partial]()
        self.read_into(forest, plan, progress)
        return _passed(forest.total(), plan, self.source.stored, self.missing)

    def _task(self, plan: Plan, *, weigh: bool = False) -> Task:
        make = ACCUMULATORS[plan.method, plan.precision]
        return Task(self.source, plan, make, plan.normalize, self.missing, self.nonfinite, weigh)


def _passed(partial: Partial, plan: Plan, stored: StoredType, missing: str) -> Pass:
    _check_count(partial, plan.row_stop - plan.row_start, missing)
    spectrum = partial.accumulators["raw"].spectrum(unit_roundoff=stored.unit_roundoff)
    return Pass(plan, partial, spectrum, estimate_rankme(spectrum))


def _check_count(partial: Partial, n_rows: int, missing: str) -> None:
    audit = partial.audit
    left_out = audit.rows_nonfinite + (audit.rows_missing if missing == "skip" else 0)
    if partial.accumulators["raw"].n_rows + left_out != n_rows:
        raise ArithmeticCheckError("rows counted and rows read do not agree; please report this")


def _check_not_empty(done: Pass, uri: str) -> None:
    if done.spectrum.n_rows == 0:
        raise SourceError(f"{uri}: no row is left after leaving out missing and non-finite ones")


def read_blocks(
    stream: BlockStream,
    rung: Rung,
    *,
    normalize: bool,
    workers: int | None,
    memory_limit: int | None,
    nonfinite: Literal["error", "skip"],
    progress: Callable[[local.Progress], None] | None,
) -> tuple[Pass, int]:
    """Read rows that come once; return the pass and the bytes read.

    As many rows are gathered as the workers' segments hold, so the bits are those of a pass over the same rows stored.
    """
    forest = Forest[Partial]()
    bytes_read, began = 0, time.perf_counter()
    n_rows, plan = _window(stream, rung, normalize, workers, memory_limit)

    def read(window: Window) -> tuple[Plan, int]:
        rows = (window.row_start, window.shape[0])
        reader = Reader(window, rows, normalize, workers, memory_limit, "error", nonfinite)
        planned = reader.plan(rung)
        reader.read_into(forest, planned, None)
        return planned, reader.bytes_read

    while (window := stream.take(n_rows)) is not None:
        planned, n_bytes = read(window)
        del window  # before the next one is gathered
        plan = max(plan, planned, key=lambda one: one.predicted_peak_bytes)
        bytes_read += n_bytes
        if progress is not None:
            progress(local.Progress(stream.n_rows, stream.n_rows, bytes_read, time.perf_counter() - began))
    done = _passed(forest.total(), spanning(plan, stream.n_rows), stream.stored, "error")
    _check_not_empty(done, stream.uri)
    return done, bytes_read


def _window(
    stream: BlockStream, rung: Rung, normalize: bool, workers: int | None, memory_limit: int | None
) -> tuple[int, Plan]:
    """Return how many rows to gather, as many segments as run at once, and the plan for them."""
    segment_rows = grid_for(stream.n_features, *rung).segment_rows
    for count in [workers] if workers else range(machine.cores(), 0, -1):
        n_rows = count * segment_rows
        try:
            plan = make_plan(
                method=rung[0], precision=rung[1], normalize=normalize, rows=(0, n_rows),
                n_features=stream.n_features, itemsize=stream.stored.dtype.itemsize, bounds=range(1, n_rows),
                read_memory=lambda _: 0, base_bytes=machine.resident_bytes() + n_rows * stream.row_bytes,
                memory_limit_bytes=machine.memory_bytes() // 2 if memory_limit is None else memory_limit,
                workers=count, cores=machine.cores(),
            )  # fmt: skip
        except LimitError:
            if workers or count == 1:
                raise
            continue
        return plan.segments_at_once * segment_rows, plan
    raise AssertionError("one worker at least was tried")
