"""Choice of the arithmetic that reads the rows, and of a better one that reads them again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from rankme_stream.accumulators import sketch_spectrum
from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.accumulators.methods import ARITHMETICS, METHODS
from rankme_stream.errors import LimitError, MagnitudeError, SourceError, UsageError, argument
from rankme_stream.measuring.completed_pass import CompletedPass
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.request import Request
from rankme_stream.passes.engines.engine import Report
from rankme_stream.spectra import intervals

_FLOAT32_PAYS_FROM = 512  # features; with fewer, rounding the rows to float32 costs as much as its products save
_PILOT_ROWS = 4  # times the features: enough for the shape of the spectrum
_PILOT_SHARE = 1 / 80  # of the rows; a longer pilot in vain could lengthen a pass by more than 3 %
_SKETCH_RANKS = (1024, 512, 256, 128, 64)
_PILOT_MARGIN = 2.0  # factor by which a sample of the rows and of the panels may be off


def arithmetics_for(request: Request, *, has_few_rows: bool = False) -> list[Arithmetic]:
    """Return the arithmetics that may be tried, cheapest first; ``auto`` stands for the exact methods.

    Where there are fewer rows than features those that keep the rows: N^2 D + N^3 flops are then fewer than
    N D^2 + D^3, and N D numbers fewer than D^2. They are made for one pass over every row, in float64.
    """
    if request.chosen is None:
        keeps = has_few_rows and not (request.sample or request.population or request.precision == "float32")
        names = {name for name, method in METHODS.items() if not method.is_sketch and method.keeps_rows == keeps}
    else:
        names = {request.chosen.name}
    return [
        arithmetic
        for arithmetic in ARITHMETICS
        if arithmetic.method in names and request.precision in ("auto", arithmetic.precision)
    ]


def choices_for(runner: PassRunner) -> list[list[Arithmetic]]:
    """Return the arithmetics for the rows of a runner, and those for the other kind: more rows, or fewer than features.

    A pass that a checkpoint holds may have begun with the other kind, when the dump had fewer rows.
    """
    few = runner.has_few_rows
    return [arithmetics_for(runner.request, has_few_rows=one) for one in (few, not few)]


def first_in_float64(arithmetics: Sequence[Arithmetic]) -> Arithmetic:
    """Return the first arithmetic in float64, or the first of all if there is none."""
    return next((arithmetic for arithmetic in arithmetics if arithmetic.precision == "float64"), arithmetics[0])


def escalate(
    runner: PassRunner, arithmetics: Sequence[Arithmetic], fingerprint: str, progress: Report | None
) -> CompletedPass:
    """Read the rows by one arithmetic after another until RankMe's interval is within the tolerance.

    Returns
    -------
    CompletedPass
        The last pass that fitted the memory limit, even if none met the tolerance.

    Raises
    ------
    SourceError
        If the rows are refused, or changed while they were read.
    LimitError
        If no pass fits the memory limit.
    """
    done: CompletedPass | None = None
    tolerance = runner.request.tolerance
    for arithmetic in arithmetics:
        try:
            held_bytes = 0 if done is None else done.plan.result_bytes
            done = runner.read_pass(arithmetic, fingerprint, progress, held_bytes=held_bytes)
        except MagnitudeError:
            if arithmetic.precision == "float64" or arithmetic is arithmetics[-1]:
                raise
            continue
        except LimitError as error:
            if (done is None and arithmetic is arithmetics[-1]) or runner.can_resume(arithmetic):
                raise
            runner.refused = str(error)
            continue
        runner.check_unchanged(fingerprint)
        runner.passes.append(done.describe())
        while not done.is_within(tolerance) and runner.start_next_pass(arithmetic, done):
            done = None  # frees its memory for the next pass
            done = runner.read_pass(arithmetic, fingerprint, progress)
            runner.check_unchanged(fingerprint)
            runner.passes.append(done.describe())
        if done.is_within(tolerance):
            break
    assert done is not None  # if no pass completed, the last arithmetic raised
    check_not_empty(done, runner.source.uri, runner.source.stored.fault)
    return done


def float32_will_do(runner: PassRunner, arithmetic: Arithmetic) -> bool:
    """Return whether float32 is likely to meet the tolerance, by a pilot; False if a pilot does not pay."""
    start, stop = runner.rows
    n_features = runner.source.shape[1]
    end = start + _PILOT_ROWS * n_features
    read_to = max(end, next(iter(runner.source.bounds(start, stop)), stop))
    if n_features < _FLOAT32_PAYS_FROM or read_to > start + (stop - start) * _PILOT_SHARE:
        return False
    with suppress(MagnitudeError, LimitError):  # those of float32; float64 raises its own
        plan = runner.plan_pilot(arithmetic, end)
        return runner.read(plan, None).is_within(runner.request.tolerance / _PILOT_MARGIN)
    return False


def sketch_advice(runner: PassRunner) -> str:
    """Return advice: a sketch that fits the memory limit if no exact pass does, and its likely interval; or ""."""
    n_features = runner.source.shape[1]
    size = min(n_features, runner.rows[1] - runner.rows[0])
    as_sketch = replace(
        runner.request, method="rsvd", precision="float64", checkpoint=None, groups=runner.groups
    )  # with the labels already read
    for rank in _SKETCH_RANKS:
        with suppress(LimitError, UsageError):
            sketch_runner = PassRunner(runner.source, replace(as_sketch, rank=rank), runner.engine, runner.device)
            peak = sketch_runner.plan(Arithmetic("rsvd", "float64")).predicted_peak_bytes
            least, most = intervals.entropy_rank(
                sketch_spectrum.expected(size, sketch_runner.sketch_size).consistent, eps=1e-7
            )
            return (
                f"; or sketch it, in {-(-peak // 2**20)} MiB: {argument('method', 'rsvd')} {argument('rank', rank)}, "
                f"which for singular values that fall as k^-1/2 leaves RankMe between {least:.3g} "
                f"and {most:.3g} of {size:,}"
            )
    return ""


def check_not_empty(done: CompletedPass, uri: str, fault: str = "") -> None:
    """Refuse a pass that left out every row; ``fault`` says what makes the source's rows be left out."""
    if done.spectrum.n_rows == 0:
        raise SourceError(f"{uri}: no row is left, because every row is missing or {fault or 'is not finite'}")
