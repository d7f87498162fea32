"""How often do the intervals of a sample hold the true value?

``python -m benchmarks coverage`` draws a dump and a sample for many kinds of dumps and many seeds, which are fixed
beforehand. The samples stop by themselves, at the first look that states an interval and within 1 % and 0.5 %, and it
counts how often the interval holds RankMe of all rows, over all seeds: a sample that ends by reading every row is
right. 41 kinds are hard to sample: rare units, heavy tails, copies, sorted and periodic rows. Real embeddings come from
the bundled dump, or from ``--dump GROUP``, a zarr group with ``embeddings`` and, for sorting, ``package``.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import rankme_stream
from benchmarks.harness.experiment import Experiment
from benchmarks.validity import coverage_page
from benchmarks.validity.coverage_kinds import Kind, hard_kinds, ordinary_kinds, wide_kinds, widest_kinds
from benchmarks.validity.hard_dumps import N_ROWS, RareUnits
from benchmarks.validity.holm import p_value, rejected
from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.request import Request
from rankme_stream.measuring.sampling.sequential import SequentialSample, read_sample
from rankme_stream.numerics import machine
from rankme_stream.sources import open_source
from rankme_stream.spectra import metrics
from rankme_stream.spectra.estimates import METRICS, estimate_all, estimate_rankme

ARITHMETIC = Arithmetic("gram", "float64")
_LAST_LOOK = 64  # rows per feature, or half of all, of the samples whose metrics are all compared
UNREACHABLE = 1e-15  # a tolerance that no sample meets: it reads all the rows that it may


def sampled(rows: np.ndarray, seed: int, tolerance: float, max_rows: int | None = None) -> SequentialSample:
    """Sample a dump until the tolerance is met, as `measure` does."""
    request = Request(
        sample=True, workers=1, confidence=coverage_page.CONFIDENCE, seed=seed, tolerance=tolerance, max_rows=max_rows
    )
    runner = PassRunner(open_source(rows), request)
    return read_sample(runner, [ARITHMETIC], runner.design(), None)


def trial(kind: Kind, seed: int) -> dict[str, Any]:
    """Sample a dump with each tolerance; return where each sample ended, None where every row was to be read."""
    rows = kind.draw(seed)
    exact = rows.astype(np.float64)
    truth = metrics.rankme(np.linalg.svd(exact.T @ exact, compute_uv=False) ** 0.5)
    done, ends = None, []
    for tolerance in kind.tolerances:
        if done is None or not done.looks[-1].is_within(tolerance):  # otherwise it would stop at the same look
            done = sampled(rows, seed, tolerance)
        look = done.looks[-1]
        is_met = done.outcome == "met"
        ends.append([look.rows, look.rankme.value, look.rankme.lower, look.rankme.upper] if is_met else None)
    result: dict[str, Any] = {"rows": len(rows), "truth": truth, "ends": ends}
    if isinstance(kind.draw, RareUnits):
        return result | {
            "is_seen": is_seen(kind.draw, rows, seed),
            "reads_on": done is not None and (len(done.looks) > 1 or done.outcome != "met"),
        }
    return result if kind.is_hard else result | _every_metric(rows, seed, kind.population is not None)


def is_seen(draw: RareUnits, rows: np.ndarray, seed: int) -> bool:
    """Return whether a first look reads a rare row."""
    design = PassRunner(open_source(rows), Request(sample=True, workers=1, seed=seed)).design()
    rare = draw.is_rare(seed)
    return any(rare[slice(*design.rows(unit))].any() for unit in design.units(0, design.first_look))


def _every_metric(rows: np.ndarray, seed: int, has_population: bool) -> dict[str, Any]:
    """Return which metrics hold at the last look, and the intervals of RankMe for what the rows were drawn from."""
    max_rows = min(_LAST_LOOK * rows.shape[1], len(rows) // 2)
    sample = sampled(rows, seed, UNREACHABLE, max_rows).sample
    assert sample is not None  # it ended for want of rows
    whole = estimate_all(rankme_stream.measure(rows, workers=1).spectrum)
    held = {
        name: whole[name].value is not None and one.lower <= whole[name].value <= one.upper
        for name, one in sample.estimates("raw", METRICS, estimate_all).items()
        if one.value is not None and one.lower is not None and one.upper is not None
    }
    if not has_population:
        return {"held": held}
    sample.population = True
    part = sample.widen_rankme(estimate_rankme(sample.spectrum))
    every = sample.of_population("raw", {"rankme": METRICS["rankme"]}, {"rankme": whole["rankme"]})["rankme"]
    return {"held": held, "population": [[one.lower, one.upper] for one in (part, every)]}


_KINDS: dict[str, Kind] = {}  # of a worker process; `_prepare` fills it


def kinds(n_features: int, n_rows: int, hard_rows: int, wide: int, dump: str | None) -> list[Kind]:
    """Return the kinds: ordinary ones, wide ones, and hard ones; every third one, and none wide, if ``wide`` is 0."""
    wider, step = (wide_kinds(wide) + widest_kinds(), 1) if wide else ([], 3)
    return ordinary_kinds(n_features, n_rows, dump)[::step] + wider + hard_kinds(hard_rows)[::step]


def _prepare(*arguments: Any) -> None:
    threadpool_limits(1)
    _KINDS.update({kind.name: kind for kind in kinds(*arguments)})


def _trial(name: str, seed: int) -> dict[str, Any]:
    return trial(_KINDS[name], seed)


def trials(pool: ProcessPoolExecutor, kind: Kind, n_seeds: int) -> list[dict[str, Any]]:
    """Sample the dumps of a kind."""
    return list(pool.map(partial(_trial, kind.name), range(round(kind.share * n_seeds)), chunksize=2))


def cells(kind: Kind, every: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells of a kind, one for each tolerance."""
    return [
        _cell(kind, tolerance, [(one["ends"][number], one) for one in every])
        for number, tolerance in enumerate(kind.tolerances)
    ]


def _cell(kind: Kind, tolerance: float, ends: Sequence[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    n_rows = ends[0][1]["rows"]
    stated = [(*end, one["truth"]) for end, one in ends if end is not None]
    wrong = sum(not lower <= truth <= upper for _, _, lower, upper, truth in stated)
    read = sum(end[0] for end in stated) + n_rows * (len(ends) - len(stated))
    cell = {
        "kind": kind.name, "tolerance": tolerance, "is_hard": kind.is_hard, "is_judged": kind.is_judged,
        "trials": len(ends), "right": len(ends) - wrong, "p": p_value(len(ends) - wrong, len(ends)),
        "stated": len(stated), "held": len(stated) - wrong, "share_read": read / n_rows / len(ends),
    }  # fmt: skip
    if not stated:
        return cell
    rows, value, lower, upper, truth = np.array(stated, float).T
    half_width = float(np.median((upper - lower) / 2))
    return cell | {
        "rows": float(np.median(rows)),
        "half_width": half_width / float(truth.mean()),
        "sharpness": half_width / float(np.quantile(np.abs(value - truth), 0.95)),
        "bias": float((value - truth).mean()) / half_width,
        "bias_error": float((value - truth).std() / len(stated) ** 0.5) / half_width,
    }


def rare_line(name: str, draw: RareUnits, every: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count the seeds whose first look holds a rare row, and those that read on without one."""
    return {
        "kind": name,
        "share": draw.share,
        "trials": len(every),
        "seen": sum(one["is_seen"] for one in every),
        "reads_on": sum(one["reads_on"] and not one["is_seen"] for one in every),
    }


def measured(experiment: Experiment, *, n_seeds: int, n_hard_seeds: int, **sizes: Any) -> dict[str, Any]:
    """Sample the dumps of every kind."""
    every, held, populations, rare = [], [], [], []
    workers, arguments = machine.cores(), tuple(sizes.values())
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_prepare, initargs=arguments) as pool:
        for kind in kinds(*arguments):
            part = experiment.part(kind.name, trials, pool, kind, n_hard_seeds if kind.is_hard else n_seeds)
            every += cells(kind, part)
            if isinstance(kind.draw, RareUnits):
                rare.append(rare_line(kind.name, kind.draw, part))
            if not kind.is_hard:
                held.append({"kind": kind.name} | _held(part))
            if kind.population is not None:
                populations.append({"kind": kind.name} | _population(part, kind.population))
    judged = [cell for cell in every if cell["is_judged"]]
    return {
        "n_features": sizes["n_features"], "n_rows": sizes["n_rows"], "hard_rows": sizes["hard_rows"],
        "n_seeds": n_seeds, "n_hard_seeds": n_hard_seeds, "cells": every, "metrics": held, "populations": populations,
        "rare": rare, "rejected": rejected(judged), "rejected_of_stated": rejected(_of_stated(judged)),
    }  # fmt: skip


def _of_stated(every: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells with the p-values of the intervals from samples alone."""
    return [cell | {"p": p_value(cell["held"], cell["stated"])} for cell in every if cell["stated"]]


def _held(every: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    names = sorted({name for one in every for name in one["held"]}, key=list(METRICS).index)
    return {
        name: [sum(one["held"].get(name, False) for one in every), sum(name in one["held"] for one in every)]
        for name in names
    }


def _population(every: Sequence[dict[str, Any]], truth: float) -> dict[str, int]:
    """Count the intervals for the population that held, from the last look and from every row."""
    counts = {}
    for number, name in enumerate(("part", "all")):
        ends = [one["population"][number] for one in every if one["population"][number][0] is not None]
        counts |= {name: sum(lower <= truth <= upper for lower, upper in ends), f"{name}_stated": len(ends)}
    return counts


def main() -> int:
    """Run, print and write the page; return 1 if intervals hold too seldom or rare units are missed."""
    experiment = Experiment(
        "coverage", __doc__, {"quick": "4 s", "default": "15 minutes on 2 cores", "full": "40 minutes on 2 cores"}
    )
    experiment.parser.add_argument("--dump", help="zarr group of real embeddings instead of the bundled ones")
    arguments = experiment.start()
    sizes = {"n_features": 64, "n_rows": 25_600, "hard_rows": N_ROWS, "wide": 288}
    seeds = {"n_seeds": 100, "n_hard_seeds": 80}
    if experiment.size == "full":
        seeds = {"n_seeds": 300, "n_hard_seeds": 200}
    if experiment.size == "quick":
        sizes, seeds = {"n_features": 16, "n_rows": 4_096, "hard_rows": 2_048, "wide": 0}, dict.fromkeys(seeds, 1)
    result = measured(experiment, **seeds, **sizes, dump=arguments.dump)
    result = experiment.finish(result, coverage_page.markdown)
    return 0 if coverage_page.is_met(result) or experiment.size == "quick" else 1
