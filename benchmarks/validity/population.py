"""How good are the numbers that few rows give for the population that they were drawn from?

``python -m benchmarks population`` draws 1.5 to 10 rows a feature of 24 kinds, whose populations are known, and counts
how often ``measure(rows, population=True)`` states an interval, how often it holds, and how far the value is off beside
that of the rows as they come. It then samples real embeddings, from the bundled dump or from ``--dump GROUP``, a zarr
group with ``embeddings``, for RankMe of all of them, beside what other libraries say of the same rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any

import numpy as np
import zarr
from threadpoolctl import threadpool_limits

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment
from benchmarks.validity import population_page, random_dumps
from benchmarks.validity.coverage import ARITHMETIC, UNREACHABLE, sampled
from benchmarks.validity.holm import p_value, rejected
from benchmarks.validity.populations import METRICS_SHOWN, Population, populations
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.request import Request
from rankme_stream.measuring.sampling.sequential import sample_for_population
from rankme_stream.numerics import machine
from rankme_stream.sources import open_source
from rankme_stream.spectra import metrics
from rankme_stream.spectra.estimates import METRICS, Estimate, estimate_all

_GROUPS = 16  # of the plain jackknife
_ROWS_OF_DUMP = 256  # per feature used: fewer are no population of known moments


def real_populations(n_features: int, dump: str | None) -> list[Population]:
    """Return rows of a dump, without repetition, in so few features that the dump is a population by itself."""
    rows = np.asarray(zarr.open_group(dump or random_dumps.BUNDLED, mode="r")["embeddings"]).astype(np.float64)
    rows = rows[:, : min(n_features, len(rows) // _ROWS_OF_DUMP)]
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def drawn(n_rows: int, generator: np.random.Generator, every: np.ndarray) -> np.ndarray:
        return every[generator.choice(len(every), n_rows, replace=False)]

    return [
        Population(
            name,
            partial(drawn, every=every),
            np.cov(every.T, bias=True),
            every.mean(axis=0),
        )
        for name, every in (("real", rows), ("real, unit rows", units))
    ]


_POPULATIONS: dict[tuple[int, str], Population] = {}  # of a process; `_prepare` fills both
_REAL: dict[str, np.ndarray] = {}


def _prepare(widths: Sequence[int], dump: str | None) -> None:
    threadpool_limits(1)
    for width in widths:
        real = real_populations(width, dump) if width == min(widths) else []
        _POPULATIONS.update({(width, one.name): one for one in [*populations(width), *real]})
    _REAL.update(real_rows(dump))


def trial(key: tuple[int, str], ratio: float, seed: int) -> dict[str, Any]:
    """Draw rows and measure them; return the estimates and RankMe as it comes and by the plain jackknife."""
    population = _POPULATIONS[key]
    n_rows = round(ratio * population.mean.size)
    rows = population.draw(n_rows, np.random.default_rng([seed, n_rows]))
    return {
        "estimates": {
            name: [one.value, one.lower, one.upper, one.reason] for name, one in estimates_of_population(rows).items()
        },
        "plain": plain_metrics(rows),
        "jackknife": jackknifed(rows),
    }


def estimates_of_population(rows: np.ndarray) -> dict[str, Estimate]:
    """Return what ``measure(rows, population=True)`` has for three metrics, and compute no others."""
    runner = PassRunner(open_source(rows), Request(population=True, workers=1))
    sample = sample_for_population(runner, ARITHMETIC, None)
    assert sample is not None  # there are rows for every replicate
    whole = estimate_all(rs.measure(rows, workers=1).spectrum)
    table, exact = ({name: every[name] for name in METRICS_SHOWN} for every in (METRICS, whole))
    return sample.of_population("raw", table, exact)


def plain_metrics(rows: np.ndarray) -> dict[str, float]:
    """Return the metrics of rows as they come, as every other library has them."""
    raw, centered = _singular_values(rows), _singular_values(rows - rows.mean(axis=0))
    return {
        "rankme": metrics.rankme(raw),
        "variance_effective_rank": metrics.variance_effective_rank(centered),
        "participation_ratio": metrics.participation_ratio(centered),
    }


def _singular_values(rows: np.ndarray) -> np.ndarray:
    return _roots(rows.T @ rows)


def _roots(gram: np.ndarray) -> np.ndarray:
    """Return the roots of the eigenvalues, descending."""
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))


def jackknifed(rows: np.ndarray) -> float:
    """Return RankMe less its bias by the delete-one jackknife over 16 groups."""
    grams = [rows[start::_GROUPS].T @ rows[start::_GROUPS] for start in range(_GROUPS)]
    whole = np.sum(grams, axis=0)
    without = [metrics.rankme(_roots(whole - gram)) for gram in grams]
    return _GROUPS * metrics.rankme(_roots(whole)) - (_GROUPS - 1) * float(np.mean(without))


def cells(
    pool: ProcessPoolExecutor, key: tuple[int, str], ratios: Sequence[float], n_seeds: int
) -> list[dict[str, Any]]:
    """Draw rows of a kind and return the cells: one for each number of rows and metric."""
    population = _POPULATIONS[key]
    truths, every = population.truths(), []
    for ratio in ratios:
        drawn = list(pool.map(partial(trial, key, ratio), range(n_seeds), chunksize=max(1, n_seeds // 20)))
        every += [
            {
                "kind": population.name,
                "width": key[0],
                "n_features": population.mean.size,
                "ratio": ratio,
                "metric": name,
            }
            | {"is_independent": population.is_independent}
            | _cell(name, truths[name], drawn)
            for name in METRICS_SHOWN
        ]
    return every


def _cell(name: str, truth: float, every: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ends = [one["estimates"][name] for one in every]
    stated = np.array([end[:3] for end in ends if end[1] is not None], float).reshape(-1, 3)
    value, lower, upper = stated.T
    held = int(((lower <= truth) & (truth <= upper)).sum())
    cell = {
        "trials": len(ends), "stated": len(stated), "held": held, "p": p_value(held, len(stated)),
        "plain": float(np.mean([one["plain"][name] for one in every])) / truth - 1.0,
        "reasons": Counter(_without_numbers(end[3]) for end in ends if end[1] is None),
    }  # fmt: skip
    if name == "rankme":
        cell["jackknife"] = float(np.mean([one["jackknife"] for one in every])) / truth - 1.0
    if not len(stated):
        return cell
    return cell | {
        "bias": float(value.mean()) / truth - 1.0,
        "bias_error": float(value.std()) / truth / len(stated) ** 0.5,
        "half_width": float(np.median(upper - lower)) / 2.0 / truth,
    }


def _without_numbers(reason: str | None) -> str:
    return re.sub(r"\d[\d,.]*", "..", reason or "no reason")


def real_rows(dump: str | None) -> dict[str, np.ndarray]:
    """Return the embeddings of a dump, and those divided by their lengths."""
    rows = np.asarray(zarr.open_group(dump or random_dumps.BUNDLED, mode="r")["embeddings"])
    exact = rows.astype(np.float64)
    return {"as stored": rows, "unit length": exact / np.linalg.norm(exact, axis=1, keepdims=True)}


def real_line(pool: ProcessPoolExecutor, name: str, ratio: float, n_seeds: int) -> dict[str, Any] | None:
    """Sample real embeddings for RankMe of all of them; return None where half of them are fewer rows than that."""
    rows = _REAL[name]
    n_rows = round(ratio * rows.shape[1])
    if n_rows > len(rows) // 2:
        return None
    trials = list(pool.map(partial(real_trial, name, n_rows), range(n_seeds)))
    return {"rows": name, "ratio": ratio, "shape": rows.shape, "truth": of_peers(rows), "trials": trials}


def real_trial(name: str, n_rows: int, seed: int) -> dict[str, Any]:
    """Sample real embeddings; return RankMe for all of them, and what other libraries say of the same rows."""
    rows = _REAL[name]
    done = sampled(rows, seed, UNREACHABLE, n_rows)
    assert done.sample is not None  # it ended for want of rows
    design, rankme = done.sample.design, done.looks[-1].rankme
    drawn = np.concatenate([rows[slice(*design.rows(unit))] for unit in design.units(0, done.sample.units_read)])
    return {
        "n_rows": len(drawn),
        "ours": [rankme.value, rankme.lower, rankme.upper, rankme.reason],
        "peers": of_peers(drawn),
    }


def of_peers(rows: np.ndarray) -> dict[str, float]:
    """Return RankMe of rows as req-metrics and reptrix define it, in float64."""
    exact = rows.astype(np.float64)
    raw, centered = _singular_values(exact), _singular_values(exact - exact.mean(axis=0))
    return {
        "req-metrics": metrics.PRESETS["paper"].compute(raw),
        "reptrix": metrics.PRESETS["reptrix"].compute(centered),
    }


def measured(
    experiment: Experiment,
    *,
    seeds: Mapping[int, int],
    ratios: Sequence[float],
    real: Mapping[float, int],
    dump: str | None,
) -> dict[str, Any]:
    """Draw rows of all kinds, and sample real embeddings."""
    every: list[dict[str, Any]] = []
    widths = tuple(seeds)
    _prepare(widths, dump)
    spawned = get_context("spawn")
    with ProcessPoolExecutor(machine.cores(), spawned, initializer=_prepare, initargs=(widths, dump)) as pool:
        for width, name in _POPULATIONS:
            every += experiment.part(f"{name}, {width}", cells, pool, (width, name), ratios, seeds[width])
        lines = [
            experiment.part(f"real, {name}, {ratio:g} D", real_line, pool, name, ratio, n_seeds)
            for name, (ratio, n_seeds) in product(_REAL, real.items())
        ]
    return {
        "seeds": dict(seeds), "ratios": list(ratios), "cells": every, "real": [line for line in lines if line],
        "rejected": rejected([cell for cell in every if cell["stated"]]),
    }  # fmt: skip


def main() -> int:
    """Run, print and write the page and its figure; return 1 if intervals hold too seldom."""
    experiment = Experiment(
        "population", __doc__, {"quick": "4 s", "default": "15 minutes on 2 cores", "full": "5 hours on 2 cores"}
    )
    experiment.parser.add_argument("--dump", help="zarr group of real embeddings instead of the bundled ones")
    arguments = experiment.start()
    seeds, ratios = {64: 120, 384: 6}, (1.5, 2.0, 3.0, 4.0, 6.0, 10.0)
    real = dict.fromkeys((1.5, 2.0, 4.0, 8.0), 8)
    if experiment.size == "full":
        seeds = {64: 200, 384: 200, 768: 40, 2048: 4}
    if experiment.size == "quick":
        seeds, ratios, real = {8: 1}, (4.0,), {2.0: 1}
    every = measured(experiment, seeds=seeds, ratios=ratios, real=real, dump=arguments.dump)
    result = experiment.finish(every, population_page.markdown)
    if experiment.out:
        population_page.plot(result, experiment.out / "population.png")
    return 0 if not result["rejected"] or experiment.size == "quick" else 1
