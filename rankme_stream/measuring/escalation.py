"""Which arithmetic reads the rows, and whether they are read again by a better one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from rankme_stream.accumulators import sketch_spectrum
from rankme_stream.accumulators.methods import ACCUMULATORS, SKETCHES, Arithmetic, sketch_size_for
from rankme_stream.errors import LimitError, MagnitudeError, SourceError, UsageError
from rankme_stream.measuring.completed_pass import CompletedPass
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.passes.engines.engine import Report
from rankme_stream.spectra import intervals

_FLOAT32_PAYS_FROM = 512  # features; below, rounding the rows to float32 takes what its products save
_PILOT_ROWS = 4  # in features: enough for the spectrum's shape
_PILOT_SHARE = 1 / 80  # a pilot longer than this share of the rows could cost a pass in vain more than 3 %
_SKETCH_RANKS, _OVERSAMPLING = (1024, 512, 256, 128, 64), 10
_PILOT_MARGIN = 2.0  # a sample of the rows and of the panels may be off by so much


def arithmetics_for(method: str, precision: str) -> list[Arithmetic]:
    """Return the arithmetics that may be tried, cheapest first.

    Raises
    ------
    UsageError
        For names that are not known and pairs that do not go together.
    """
    methods = ("auto", *dict.fromkeys(kind for kind, _ in ACCUMULATORS))
    if method not in methods:
        raise UsageError(f"method {method!r} is not one of {', '.join(methods)}")
    if precision not in ("float64", "float32", "auto"):
        raise UsageError(f"precision {precision!r} is not one of float64, float32, auto")
    wanted = [method] if method != "auto" else [kind for kind in methods if kind not in SKETCHES]
    arithmetics = [
        arithmetic
        for arithmetic in ACCUMULATORS
        if arithmetic.method in wanted and precision in ("auto", arithmetic.precision)
    ]
    if not arithmetics:
        raise UsageError(f"{method} works in float64 only: its error is not measured; leave --precision out")
    return arithmetics


def escalate(
    reader: PassRunner, arithmetics: list[Arithmetic], tolerance: float, fingerprint: str, progress: Report | None
) -> CompletedPass:
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
    done: CompletedPass | None = None
    for arithmetic in arithmetics:
        try:
            done = reader.read_pass(arithmetic, fingerprint, progress)
        except MagnitudeError:
            if arithmetic.precision == "float64" or arithmetic is arithmetics[-1]:
                raise
            continue
        except LimitError as error:
            if (done is None and arithmetic is arithmetics[-1]) or reader.holds(arithmetic):
                raise
            reader.refused = str(error)
            continue
        reader.check_unchanged(fingerprint)
        reader.passes.append(done.describe())
        while not done.is_within(tolerance) and reader.go_on(arithmetic, done):
            done = None  # its memory is the next pass's
            done = reader.read_pass(arithmetic, fingerprint, progress)
            reader.check_unchanged(fingerprint)
            reader.passes.append(done.describe())
        if done.is_within(tolerance):
            break
    assert done is not None  # the last arithmetic raises
    check_not_empty(done, reader.source.uri)
    return done


def float32_will_do(reader: PassRunner, tolerance: float) -> bool:
    """Say from a pilot whether float32 is likely to meet the tolerance; False where a pilot does not pay."""
    start, stop = reader.rows
    n_features = reader.source.shape[1]
    end = start + _PILOT_ROWS * n_features
    read_to = max(end, next(iter(reader.source.bounds(start, stop)), stop))
    if n_features < _FLOAT32_PAYS_FROM or read_to > start + (stop - start) * _PILOT_SHARE:
        return False
    with suppress(MagnitudeError, LimitError):  # of float32; float64 finds its own
        plan = reader.plan_pilot(Arithmetic("gram", "float32"), end)
        return reader.read(plan, None).is_within(tolerance / _PILOT_MARGIN)
    return False


def sketch_instead(reader: PassRunner) -> str:
    """Say which sketch fits the memory limit that no exact pass fits, and how much it would tell; nothing if none."""
    n_features = reader.source.shape[1]
    size = min(n_features, reader.rows[1] - reader.rows[0])
    for rank in _SKETCH_RANKS:
        with suppress(LimitError, UsageError):
            sketch_size = sketch_size_for("rsvd", rank, _OVERSAMPLING, n_features)
            sketching = replace(reader, sketch_size=sketch_size, checkpoint=None)
            peak = sketching.plan(Arithmetic("rsvd", "float64")).predicted_peak_bytes
            least, most = intervals.entropy_rank(sketch_spectrum.expected(size, sketch_size).consistent, eps=1e-7)
            return (
                f"; or sketch it, in {-(-peak // 2**20)} MiB: --method rsvd --rank {rank}, which for singular values "
                f"that fall as k^-1/2 leaves RankMe between {least:.3g} and {most:.3g} of {size:,}"
            )
    return ""


def check_not_empty(done: CompletedPass, uri: str) -> None:
    """Refuse a pass that left out every row."""
    if done.spectrum.n_rows == 0:
        raise SourceError(f"{uri}: no row is left after leaving out missing and non-finite ones")
