"""How often do the intervals of a sample hold the true value?

``python -m benchmarks coverage`` draws a dump and a sample for many kinds of dumps and many seeds, which are fixed
beforehand. It looks at RankMe at fixed sizes and under early stopping, and counts how often the interval holds RankMe
of all rows. Real embeddings come from the bundled dump, or from ``--dump GROUP``, a zarr group with ``embeddings`` and,
for sorting, ``package``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import zarr
from scipy.special import bdtr
from threadpoolctl import threadpool_limits

import rankme_stream
from benchmarks.harness.experiment import Experiment
from benchmarks.validity import coverage_page, random_dumps
from benchmarks.validity.coverage_page import HOLDS, SIGNIFICANCE
from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.request import Request
from rankme_stream.measuring.sampling.sample import Sample
from rankme_stream.measuring.sampling.sequential import look_at
from rankme_stream.numerics import machine
from rankme_stream.passes.planning.sample_design import draw_design
from rankme_stream.sources import open_source
from rankme_stream.spectra import metrics
from rankme_stream.spectra.estimates import METRICS, estimate_all, estimate_rankme

_WIDEST = 768  # features


@dataclass(frozen=True)
class Kind:
    """Dumps of one kind; ``draw`` returns the rows for a seed, ``population`` is RankMe of infinitely many rows."""

    name: str
    draw: Callable[[int], np.ndarray]
    population: float | None = None
    share: float = 1.0  # of the seeds that is drawn


def wide_kinds(n_features: int) -> list[Kind]:
    """Return kinds of dumps with wide rows, for a tenth of the seeds."""
    n_rows, half = 160 * n_features, np.arange(1, n_features + 1, dtype=np.float32) ** -0.5
    return [
        Kind(f"Gaussian, {n_features} features", random_dumps.gaussian(n_rows, half), _rankme(half), 0.1),
        Kind(
            f"clusters, sorted, {n_features} features", random_dumps.clusters(n_rows, half, is_sorted=True), share=0.1
        ),
    ]


def widest_kinds(n_features: int) -> list[Kind]:
    """Return kinds of dumps whose rows are so wide that the second-order bias exceeds the random error."""
    n_rows, k = 40 * n_features, np.arange(1, n_features + 1, dtype=np.float32)
    shapes = {"flat": k**0, "s ~ k^-1/4": k**-0.25, "s ~ k^-1/2": k**-0.5}
    return [
        Kind(f"Gaussian, {name}, {n_features} features", random_dumps.gaussian(n_rows, shape), _rankme(shape), 0.1)
        for name, shape in shapes.items()
    ]


def kinds(n_features: int, n_rows: int, dump: str | None) -> list[Kind]:
    """Return the kinds of dumps."""
    k = np.arange(1, n_features + 1, dtype=np.float32)
    half = k**-0.5
    few = np.where(k <= n_features // 8, np.float32(1.0), np.float32(0.02))
    group = zarr.open_group(dump or random_dumps.BUNDLED, mode="r")
    real = np.asarray(group["embeddings"])
    # the first features, so few that there are as many rows a feature as in the other kinds
    real = real[:, : max(8, min(n_features, len(real) * n_features // n_rows))]
    order = np.argsort(np.asarray(group["package"]), kind="stable") if "package" in group else _similar_rows(real)
    steep = np.exp(-8 * k / n_features)

    def with_mean(seed: int) -> np.ndarray:
        return random_dumps.gaussian(n_rows, half, "float16")(seed) + np.float16(0.5)

    return [
        Kind("Gaussian, flat", random_dumps.gaussian(n_rows, k**0), _rankme(k**0)),
        Kind("Gaussian, s ~ k^-1/2", random_dumps.gaussian(n_rows, half), _rankme(half)),
        Kind("Gaussian, s ~ k^-1", random_dumps.gaussian(n_rows, 1 / k), _rankme(1 / k)),
        Kind("Gaussian, s ~ exp(-8 k/D)", random_dumps.gaussian(n_rows, steep), _rankme(steep)),
        Kind("Gaussian, D/8 strong, rest 0.02", random_dumps.gaussian(n_rows, few), _rankme(few)),
        Kind("Gaussian with a mean, float16", with_mean, _rankme(half, mean=0.5)),
        Kind("heavy tails, t with 6 degrees", random_dumps.heavy_tailed(n_rows, half), _rankme(half)),
        Kind("clusters, random order", random_dumps.clusters(n_rows, half, is_sorted=False)),
        Kind("clusters, sorted", random_dumps.clusters(n_rows, half, is_sorted=True)),
        Kind("near-duplicates in runs of 4", random_dumps.near_duplicates(n_rows, half), _rankme(half)),
        Kind("drifting", random_dumps.drifting(n_rows, half)),
        Kind(f"real, {real.shape[1]} features, random order", random_dumps.reordered(real, None)),
        Kind(f"real, {real.shape[1]} features, sorted", random_dumps.reordered(real, order)),
    ]


def _rankme(spectrum: np.ndarray, mean: float = 0.0) -> float:
    """Return RankMe of infinitely many rows with independent features of these standard deviations and this mean."""
    gram = np.diag(spectrum.astype(np.float64) ** 2) + mean**2
    return metrics.rankme(np.sqrt(np.linalg.eigvalsh(gram)[::-1]))


def _similar_rows(rows: np.ndarray) -> np.ndarray:
    """Return the order of the rows along their first principal axis, for dumps without labels to sort by."""
    exact = rows.astype(np.float64)
    return np.argsort((exact - exact.mean(axis=0)) @ np.linalg.svd(exact, full_matrices=False)[2][0], kind="stable")


def trial(rows: np.ndarray, seed: int, tolerance: float) -> dict[str, Any]:
    """Sample a dump once; return RankMe and the stopping rule at every look, and every metric at the last look."""
    exact = rows.astype(np.float64)
    truth = metrics.rankme(np.linalg.svd(exact.T @ exact, compute_uv=False) ** 0.5)
    source = open_source(rows)
    runner = PassRunner(source, Request(sample=True, workers=1, confidence=coverage_page.CONFIDENCE))
    design = draw_design(rows=(0, len(rows)), n_features=rows.shape[1], bounds=source.bounds(0, len(rows)), seed=seed)
    sample = Sample(runner, Arithmetic("gram", "float64"), design)
    looks = []
    for n_units in design.looks(64 * rows.shape[1]):
        sample.read_to(n_units)
        look = look_at(sample)
        rankme, is_stop = look.rankme, look.is_within(tolerance)
        raw = rankme.details.get("sample")
        looks.append([look.rows, rankme.value, rankme.lower, rankme.upper, raw, is_stop])
    sampled = sample.estimates("raw", METRICS, estimate_all)
    whole = estimate_all(_spectrum(rows))
    held = {
        name: whole[name].value is not None and one.lower <= whole[name].value <= one.upper
        for name, one in sampled.items()
        if one.value is not None and one.lower is not None and one.upper is not None
    }
    sample.population = True
    part = sample.widen_rankme(estimate_rankme(sample.spectrum))
    every = sample.of_population("raw", {"rankme": METRICS["rankme"]}, {"rankme": whole["rankme"]})["rankme"]
    population = [[one.lower, one.upper] for one in (part, every)]
    return {"truth": truth, "looks": looks, "held": held, "population": population}


def _spectrum(rows: np.ndarray) -> Any:
    return rankme_stream.measure(rows, workers=1).spectrum


_KINDS: list[Kind] = []  # of a worker process; `_prepare` fills it


def _prepare(n_features: int, n_rows: int, wide: int, dump: str | None) -> None:
    threadpool_limits(1)
    _KINDS.extend(kinds(n_features, n_rows, dump))
    if wide:
        _KINDS.extend(wide_kinds(wide) + widest_kinds(_WIDEST))


def _trial(number: int, seed: int, tolerance: float) -> dict[str, Any]:
    return trial(_KINDS[number].draw(seed), seed, tolerance)


def trials(pool: ProcessPoolExecutor, number: int, n_seeds: int) -> dict[str, Any]:
    """Sample all dumps of a kind; the tolerance of early stopping is the half-width for one more dump."""
    kind = _KINDS[number]
    pilot = _trial(number, n_seeds, 0.0)["looks"]
    middle = next(look for look in pilot[len(pilot) // 2 :] if look[1] is not None)
    tolerance = (middle[3] - middle[2]) / 2 / middle[1]
    seeds = range(round(kind.share * n_seeds))
    every = list(pool.map(_trial, *zip(*[(number, seed, tolerance) for seed in seeds], strict=True)))
    return {"kind": kind.name, "population": kind.population, "tolerance": tolerance, "trials": every}


def cells(part: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cells of a kind: one for each size of the sample, and one for early stopping."""
    every = part["trials"]
    columns = [
        (f"{looks[0][0]:,}", [[*look, one["truth"]] for look, one in zip(looks, every, strict=True)])
        for looks in zip(*(one["looks"] for one in every), strict=True)
    ]
    stopped = []
    for one in every:
        end = next((look for look in one["looks"] if look[5]), one["looks"][-1])
        stopped.append([*end, one["truth"]])
    return [_cell(part["kind"], name, looks) for name, looks in [*columns, ("stopped early", stopped)]]


def _cell(kind: str, size: str, looks: Sequence[Sequence[Any]]) -> dict[str, Any]:
    stated = [look for look in looks if look[1] is not None]
    cell = {"kind": kind, "rows": size, "trials": len(looks), "stated": len(stated)}
    if not stated:
        return cell
    rows, value, lower, upper, raw, truth = (np.array([look[i] for look in stated], float) for i in (0, 1, 2, 3, 4, 6))
    held = int(((lower <= truth) & (truth <= upper)).sum())
    half_width = float(np.median((upper - lower) / 2))
    return cell | {
        "mean_rows": float(rows.mean()),
        "held": held,
        "p": float(bdtr(held, len(stated), HOLDS)),
        "half_width": half_width / float(truth.mean()),
        "sharpness": half_width / float(np.quantile(np.abs(value - truth), 0.95)),
        "bias": float((value - truth).mean()) / half_width,
        "bias_error": float((value - truth).std() / len(stated) ** 0.5) / half_width,
        "uncorrected_bias": float((raw - truth).mean()) / half_width,
    }


def rejected(tested: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells that are shown to hold less often than they should, by Holm's step-down test over all cells."""
    ordered = sorted((cell for cell in tested if cell["stated"]), key=lambda cell: float(cell["p"]))
    bad = []
    for number, cell in enumerate(ordered):
        if cell["p"] > SIGNIFICANCE / (len(ordered) - number):
            break
        bad.append(cell)
    return bad


def measured(
    experiment: Experiment, *, n_features: int, n_rows: int, n_seeds: int, wide: int, dump: str | None
) -> dict[str, Any]:
    """Sample the dumps of every kind."""
    every, held, populations = [], [], []
    _prepare(n_features, n_rows, wide, dump)
    names = [kind.name for kind in _KINDS]
    workers = machine.cores()
    spawned, arguments = get_context("spawn"), (n_features, n_rows, wide, dump)
    with ProcessPoolExecutor(workers, spawned, initializer=_prepare, initargs=arguments) as pool:
        for number, name in enumerate(names):
            part = experiment.part(name, trials, pool, number, n_seeds)
            every += cells(part)
            held.append({"kind": name} | _held(part["trials"]))
            if part["population"] is not None:
                populations.append({"kind": name} | _population(part))
    stated = [cell for cell in every if cell["stated"]]
    return {
        "n_features": n_features, "n_rows": n_rows, "n_seeds": n_seeds, "cells": every, "metrics": held,
        "populations": populations,
        "pooled": sum(cell["held"] for cell in stated) / sum(cell["stated"] for cell in stated),
        "rejected": rejected(every),
    }  # fmt: skip


def _held(every: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    names = sorted({name for one in every for name in one["held"]}, key=list(METRICS).index)
    return {
        name: [sum(one["held"].get(name, False) for one in every), sum(name in one["held"] for one in every)]
        for name in names
    }


def _population(part: dict[str, Any]) -> dict[str, int]:
    """Count the intervals for the population that held, from the last look and from every row."""
    truth = part["population"]
    ends = np.array([one["population"] for one in part["trials"]], float)  # trial, part or all, lower or upper
    held = ((ends[..., 0] <= truth) & (truth <= ends[..., 1])).sum(axis=0)
    return {"stated": len(ends), "part": int(held[0]), "all": int(held[1])}


def main() -> int:
    """Run, print and write the page; return 1 if intervals hold too seldom."""
    experiment = Experiment("coverage", __doc__, {"quick": "10 s", "default": "10 minutes"})
    experiment.parser.add_argument("--dump", help="zarr group of real embeddings instead of the bundled ones")
    arguments = experiment.start()
    sizes = {"n_features": 64, "n_rows": 25_600, "n_seeds": 300, "wide": 288}
    if experiment.size == "quick":
        sizes = {"n_features": 16, "n_rows": 4_096, "n_seeds": 4, "wide": 0}
    result = experiment.finish(measured(experiment, **sizes, dump=arguments.dump), coverage_page.markdown)
    return 0 if not result["rejected"] or experiment.size == "quick" else 1
