"""measure(): source -> plan -> engine -> measurement."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from threadpoolctl import threadpool_limits

from rankme_stream import machine
from rankme_stream.arrays import StoredType
from rankme_stream.engines import local
from rankme_stream.errors import LimitError, ToleranceWarning, UsageError
from rankme_stream.estimates import definitions
from rankme_stream.findings import Findings, of_all, of_population, of_sample
from rankme_stream.ladder import Reader, Rung, read_blocks, rungs_for
from rankme_stream.looks import Look, Reading, read_sample, sample_for_population
from rankme_stream.measurement import Measurement
from rankme_stream.planning import Plan
from rankme_stream.sample import Sample
from rankme_stream.sampling import design
from rankme_stream.sources import BlockStream, is_blocks, open_source

Method = Literal["auto", "gram", "tsqr"]
Precision = Literal["float64", "float32", "auto"]


def plan(
    source: Any,
    *,
    method: Method = "auto",
    precision: Precision = "float64",
    sample: bool = False,
    normalize: bool = False,
    rows: tuple[int | None, int | None] | None = None,
    workers: int | None = None,
    memory_limit: int | None = None,
) -> Plan:
    """Return what a pass would read and hold; reads metadata only.

    Parameters
    ----------
    source
        A path or URI, an array, or anything that satisfies ``Source``.
    method
        ``gram``; ``tsqr``, which never squares; or ``auto``: ``gram``, then ``tsqr`` where the interval is too wide.
    precision
        Of the products: ``float64``; ``float32``, whose error is measured (gram only); or ``auto``, the cheapest of
        which the interval fits the tolerance. What is planned is the first pass.
    sample
        Plan for reading a part; where the rows are too few for one, for all.
    normalize
        Accumulate the rows scaled to unit length as well.
    rows
        Rows [A, B) to read; None is all of them, and None for an end is that end.
    workers
        Threads; None takes one a core, fewer when memory asks for it.
    memory_limit
        Bytes that this process may hold; None is half of what the machine or its cgroup offers.

    Raises
    ------
    SourceError
        If the source cannot be opened.
    LimitError
        If no schedule fits; the text says what would.
    UsageError
        For options that do not go together.
    """
    opened = open_source(source)
    rung = rungs_for(method, "float64" if precision == "auto" else precision)[0]
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers} and must be at least 1")
    row_range = _row_range(rows, opened.shape[0])
    reader = Reader(opened, row_range, normalize, workers, memory_limit, "error", "error")
    drawn = design(rows=row_range, n_features=opened.shape[1], bounds=opened.bounds(*row_range), seed=0)
    return reader.plan(rung, drawn if sample and any(drawn.looks()) else None)


def _row_range(rows: tuple[int | None, int | None] | None, n_rows: int) -> tuple[int, int]:
    start, stop = rows or (None, None)
    first, last = start or 0, n_rows if stop is None else stop
    if not 0 <= first < last <= n_rows:
        raise UsageError(f"rows {first}:{last} are not within the {n_rows:,} rows of the source")
    return first, last


def measure(
    source: Any,
    *,
    method: Method = "auto",
    precision: Precision = "float64",
    tolerance: float = 1e-3,
    confidence: float = 0.95,
    sample: bool = False,
    population: bool = False,
    max_rows: int | None = None,
    rows: tuple[int | None, int | None] | None = None,
    seed: int = 0,
    normalize: bool = False,
    dims: Sequence[int] = (),
    workers: int | None = None,
    memory_limit: int | None = None,
    missing: Literal["error", "skip", "fill"] = "error",
    nonfinite: Literal["error", "skip"] = "error",
    progress: Callable[[local.Progress], None] | None = None,
) -> Measurement:
    """Read every row, or a part of them, and return the metrics of their singular values, each with an interval.

    Parameters
    ----------
    source, method, precision, normalize, rows, workers, memory_limit
        As for ``plan``; or an iterable of blocks, arrays of shape ``(rows, D)`` that are read as they come, once. The
        result's bits depend on none of ``workers``, ``memory_limit`` and where blocks are cut.
    tolerance
        Largest half-width of RankMe's interval, relative to RankMe. With ``method`` or ``precision`` ``auto`` the rows
        are read again by the next arithmetic when it is not met.
    confidence
        Probability with which intervals are to hold the error of sampling.
    sample
        Read units of rows in random order until the tolerance is met; every row where that would take half of them.
    population
        State intervals for what the rows were drawn from, units of rows at random, instead of for these rows.
    max_rows
        Stop a sample there; it needs ``sample``.
    seed
        Of the random order. The same seed gives the same rows, and the same bits, for any number of workers.
    dims
        Also state every metric for the first d features, for each d given; costs d^3 each and no reading.
    missing
        Chunks that were never written: ``error`` refuses them, ``skip`` leaves their rows out, ``fill`` takes the
        array's fill value; the last two count them.
    nonfinite
        Rows with NaN or infinity: ``error`` refuses them, ``skip`` leaves them out and counts them.
    progress
        Called about ten times a second with rows and bytes done.

    Returns
    -------
    Measurement
        With ``tolerance_met`` False, and a ``ToleranceWarning``, when no arithmetic allowed meets the tolerance.

    Raises
    ------
    SourceError
        If the data is refused: not found, not numbers, missing or corrupt chunks, non-finite rows, changed meanwhile.
    LimitError
        If no schedule fits the memory limit.
    ArithmeticCheckError
        If the arithmetic is further off than it can be.

    Notes
    -----
    N D^2 flops for ``gram``, 2 N D^2 for ``tsqr``, twice that with ``normalize``. While it runs, BLAS is held to one
    thread for the whole process.

    Examples
    --------
    >>> import numpy as np
    >>> measurement = measure(np.eye(4))
    >>> round(measurement.rankme.value, 6), measurement.rankme.half_width < 1e-9
    (4.000001, True)
    """
    asked = _Asked(
        method, precision, tolerance, confidence, sample, population, max_rows, rows, seed, normalize, tuple(dims),
        workers, memory_limit, missing, nonfinite,
    )  # fmt: skip
    asked.check()
    wall, cpu = time.perf_counter(), time.process_time()
    with machine.PeakMemory() as memory, threadpool_limits(1, user_api="blas"):
        read = _read_blocks(source, asked, progress) if is_blocks(source) else _read_source(source, asked, progress)
        found = read.found
        measurement = Measurement(
            source=read.source,
            rows_read=found.partial.accumulators["raw"].n_rows,
            method=found.plan.method,
            precision=found.plan.precision,
            engine="local",
            device="cpu",
            definition=definitions(),
            estimates=found.estimates,
            presets=found.presets,
            normalized=found.normalized,
            dims=found.dims,
            tolerance=tolerance,
            passes=read.passes,
            convergence=[look.to_dict() for look in read.looks],
            sampling=None if read.sample is None else read.sample.to_dict(),
            spectrum=found.spectrum,
            audit=found.partial.audit,
            chunks_missing=read.chunks_missing,
            integrity=read.integrity,
            plan=found.plan,
            measured={
                "elapsed_s": time.perf_counter() - wall,
                "cpu_s": time.process_time() - cpu,
                "bytes_read": read.bytes_read,
                "peak_bytes": memory.peak_bytes,
            },
            provenance=_provenance(found.plan.workers, seed),
        )
    if not measurement.tolerance_met:
        text = f"{read.source['uri']}: RankMe's interval is wider than the tolerance {tolerance:g}; {read.remedy}"
        warnings.warn(text, ToleranceWarning, stacklevel=2)
    return measurement


@dataclass(frozen=True)
class _Asked:
    """What ``measure`` was asked for."""

    method: Method
    precision: Precision
    tolerance: float
    confidence: float
    sample: bool
    population: bool
    max_rows: int | None
    rows: tuple[int | None, int | None] | None
    seed: int
    normalize: bool
    dims: tuple[int, ...]
    workers: int | None
    memory_limit: int | None
    missing: Literal["error", "skip", "fill"]
    nonfinite: Literal["error", "skip"]

    def check(self) -> None:
        """Refuse what cannot be."""
        if self.missing not in ("error", "skip", "fill"):
            raise UsageError(f"missing {self.missing!r} is not one of error, skip, fill")
        if self.nonfinite not in ("error", "skip"):
            raise UsageError(f"nonfinite {self.nonfinite!r} is not one of error, skip")
        if not 0.0 < self.tolerance < math.inf:
            is_exact = self.sample and self.tolerance == 0.0
            exact = "; the exact value comes from every row: leave sample out" if is_exact else ""
            raise UsageError(f"tolerance {self.tolerance!r} is not above 0 and finite{exact}")
        if not 0.0 < self.confidence < 1.0:
            raise UsageError(f"confidence {self.confidence!r} is not between 0 and 1")
        if self.max_rows is not None and not self.sample:
            raise UsageError("max_rows is the end of a sample: pass sample as well, or rows to read a range")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers is {self.workers} and must be at least 1")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"seed {self.seed} is not a non-negative integer below 2^64")

    def check_dims(self, n_features: int) -> None:
        """Refuse widths that the rows do not have."""
        for d in self.dims:
            if not 1 <= d <= n_features:
                raise UsageError(f"dims holds {d}, and the rows have {n_features:,} features")


@dataclass(frozen=True)
class _Read:
    """The rows that were read, where they came from, and what would help if they tell too little."""

    source: dict[str, Any]
    found: Findings
    passes: list[dict[str, Any]]
    bytes_read: int
    remedy: str
    integrity: str
    chunks_missing: int = 0
    looks: Sequence[Look] = ()
    sample: Sample | None = None


def _read_blocks(source: Any, asked: _Asked, progress: Callable[[local.Progress], None] | None) -> _Read:
    """Read rows that come once."""
    if asked.sample or asked.population or asked.rows is not None:
        raise UsageError("blocks come once and in order: store them, or leave sample, population and rows out")
    rungs = rungs_for(asked.method, asked.precision)
    stream = BlockStream(source)
    asked.check_dims(stream.n_features)
    done, bytes_read = read_blocks(
        stream, _best(rungs), normalize=asked.normalize, workers=asked.workers, memory_limit=asked.memory_limit,
        nonfinite=asked.nonfinite, progress=progress,
    )  # fmt: skip
    return _Read(
        source=_describe(stream.uri, (stream.n_rows, stream.n_features), stream.stored, "blocks"),
        found=of_all(done, stream.stored.unit_roundoff, asked.normalize, asked.dims),
        passes=[done.describe()],
        bytes_read=bytes_read,
        remedy=_remedy(asked, "blocks come once; pass method='tsqr', or store them" if len(rungs) > 1 else None),
        integrity=stream.integrity,
    )


def _read_source(source: Any, asked: _Asked, progress: Callable[[local.Progress], None] | None) -> _Read:
    """Read rows that can be read in any order: a part of them, or all."""
    rungs = rungs_for(asked.method, asked.precision)
    opened = open_source(source)
    asked.check_dims(opened.shape[1])
    planned = plan(
        opened, method=asked.method, precision=asked.precision, normalize=asked.normalize, rows=asked.rows,
        workers=asked.workers, memory_limit=asked.memory_limit,
    )  # fmt: skip
    rows = (planned.row_start, planned.row_stop)
    reader = Reader(
        opened, rows, asked.normalize, asked.workers, asked.memory_limit, asked.missing, asked.nonfinite
    )  # fmt: skip
    fingerprint = reader.fingerprint()
    drawn = design(rows=rows, n_features=opened.shape[1], bounds=opened.bounds(*rows), seed=asked.seed)
    if asked.population:
        reader.plan(rungs[0], drawn)  # its groups are refused now, not after every row was read
    reading: Reading | None = None
    answer: Sample | None = None
    if asked.sample:
        reading = read_sample(
            reader, rungs, drawn, tolerance=asked.tolerance, confidence=asked.confidence,
            population=asked.population, max_rows=asked.max_rows, progress=progress,
        )  # fmt: skip
    if reading is not None and reading.is_answer:
        answer = reading.sample
        found = of_sample(answer, asked.normalize, asked.dims)
    else:
        if asked.precision == "auto" and rungs[0][1] == "float32" and not reader.float32_will_do(asked.tolerance):
            del rungs[0]
        done = reader.climb(rungs, asked.tolerance, fingerprint, progress)
        found = of_all(done, opened.stored.unit_roundoff, asked.normalize, asked.dims)
        if asked.population:
            rung = (done.plan.method, done.plan.precision)
            reason = "the rows are too few to tell from them what they were drawn from"
            try:
                answer = sample_for_population(reader, rung, drawn, confidence=asked.confidence, progress=progress)
            except LimitError as error:  # the pass itself left less memory than there was
                reason = str(error)
            found = of_population(found, answer, reason)
    if answer is not None:
        reader.check_unchanged(fingerprint)
    remedy = _remedy(asked, reader.refused)
    if reading is not None and reading.wants_rows(asked.tolerance):
        remedy = "allow more rows"
    elif asked.population:
        remedy = "more rows are needed to tell so much of what these were drawn from"
    return _Read(
        source=_describe(opened.uri, opened.shape, opened.stored, fingerprint),
        found=found,
        passes=reader.passes,
        bytes_read=reader.bytes_read,
        remedy=remedy,
        integrity=opened.integrity,
        chunks_missing=opened.chunks_missing,
        looks=reading.looks if reading is not None else (),
        sample=answer,
    )


def _best(rungs: Sequence[Rung]) -> Rung:
    """Return the arithmetic for rows that come once: of those allowed, the first in float64, or the only one."""
    return next((rung for rung in rungs if rung[1] == "float64"), rungs[0])


def _describe(uri: str, shape: tuple[int, int], stored: StoredType, fingerprint: str) -> dict[str, Any]:
    n_rows, n_features = shape
    return {
        "uri": uri, "n_rows": n_rows, "n_features": n_features, "dtype": stored.name, "fingerprint": fingerprint,
    }  # fmt: skip


def _remedy(asked: _Asked, refused: str | None) -> str:
    if refused is not None:
        return f"the next arithmetic was not tried: {refused}"
    if asked.precision == "float32":
        return "try --precision auto"
    return "try --method auto" if asked.method == "gram" else "pass a larger --tolerance"


def _provenance(workers: int, seed: int) -> dict[str, Any]:
    worker = machine.describe() | {"count": workers, "threads": 1}
    worker |= {name: version(name) for name in ("numpy", "scipy", "zarr", "numcodecs")}
    return {"rankme_stream": version("rankme-stream"), "seed": seed, "bits_reproducible": True, "workers": [worker]}
