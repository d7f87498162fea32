"""Which arithmetic reads the rows, and whether they are read again by a better one."""

from __future__ import annotations

from contextlib import suppress

from rankme_stream.errors import LimitError, MagnitudeError, SourceError, UsageError
from rankme_stream.partial import ACCUMULATORS, Rung
from rankme_stream.reader import Pass, Reader, Report

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


def climb(reader: Reader, rungs: list[Rung], tolerance: float, fingerprint: str, progress: Report | None) -> Pass:
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
            done = reader.read_pass(rung, fingerprint, progress)
        except MagnitudeError:
            if rung[1] == "float64" or rung is rungs[-1]:
                raise
            continue
        except LimitError as error:
            if (done is None and rung is rungs[-1]) or reader.holds(rung):
                raise
            reader.refused = str(error)
            continue
        reader.check_unchanged(fingerprint)
        reader.passes.append(done.describe())
        if done.is_within(tolerance):
            break
    assert done is not None  # the last rung raises
    check_not_empty(done, reader.source.uri)
    return done


def float32_will_do(reader: Reader, tolerance: float) -> bool:
    """Say from a pilot whether float32 is likely to meet the tolerance; False where a pilot does not pay."""
    start, stop = reader.rows
    n_features = reader.source.shape[1]
    end = start + _PILOT_ROWS * n_features
    read_to = max(end, next(iter(reader.source.bounds(start, stop)), stop))
    if n_features < _FLOAT32_PAYS_FROM or read_to > start + (stop - start) * _PILOT_SHARE:
        return False
    with suppress(MagnitudeError, LimitError):  # of float32; float64 finds its own
        return reader.read(reader.plan_pilot(("gram", "float32"), end), None).is_within(tolerance / _PILOT_MARGIN)
    return False


def check_not_empty(done: Pass, uri: str) -> None:
    """Refuse a pass that left out every row."""
    if done.spectrum.n_rows == 0:
        raise SourceError(f"{uri}: no row is left after leaving out missing and non-finite ones")
