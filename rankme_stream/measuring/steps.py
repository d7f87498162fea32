"""The steps that a measurement of stored rows may take, planned before the first read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.errors import LimitError
from rankme_stream.measuring.escalation import first_in_float64, sketch_advice
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.passes.planning.plan import Plan, looks_transposed
from rankme_stream.passes.planning.sample_design import SampleDesign


def plan_steps(
    runner: PassRunner, arithmetics: Sequence[Arithmetic], design: SampleDesign, *, has_checkpoint: bool | None = None
) -> list[Plan]:
    """Return the plans of all steps that a measurement may take, that of its first read first.

    Better arithmetics are tried only if the interval is too wide and they fit the limit; those that do not fit are left
    out. ``has_checkpoint`` is as in ``PassRunner.plan``.

    Raises
    ------
    LimitError
        If a step that is sure to be needed does not fit; the message says what would.
    """
    request = runner.request
    first, last_pass = first_in_float64(arithmetics), request.passes - 1
    try:
        steps = [runner.plan(first, pass_number=last_pass, has_checkpoint=has_checkpoint)]
    except LimitError as error:
        is_open = request.chosen is None or request.chosen.better is not None
        is_open = is_open and not looks_transposed(*runner.source.shape)
        is_plain = not (request.dims or request.sample or request.population or request.precision == "float32")
        raise LimitError(f"{error.message}{sketch_advice(runner) if is_open and is_plain else ''}") from None
    is_sampled = request.sample and any(design.looks(request.max_rows))
    if is_sampled:
        steps.insert(0, runner.plan_sample(first, design))
    if request.population and not is_sampled:
        steps.append(runner.plan_sample(arithmetics[0], runner.population_design()))
    read = partial(runner.plan, pass_number=last_pass, has_checkpoint=has_checkpoint)
    steps += _fitting(read, arithmetics)
    designs = [design] if is_sampled else []
    if request.population:
        designs.append(runner.population_design())
    for one in designs:
        steps += _fitting(partial(runner.plan_sample, design=one), arithmetics)
    return steps


def _fitting(plan: Callable[..., Plan], arithmetics: Sequence[Arithmetic]) -> list[Plan]:
    """Return the plans of arithmetics that fit, each beside the result of the one before."""
    found: list[Plan] = []
    for arithmetic in arithmetics:
        with suppress(LimitError):
            found.append(plan(arithmetic, held_bytes=found[-1].result_bytes if found else 0))
    return found
