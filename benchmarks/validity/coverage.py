"""Whether the intervals of a sample hold: many dumps of many kinds, each sampled with seeds fixed beforehand.

``python -m benchmarks coverage`` draws a dump and a sample for every kind and seed, looks at RankMe at fixed sizes and
under early stopping, and counts how often the interval holds RankMe of all rows. Real embeddings come from the bundled
dump, or from ``--dump GROUP``, a zarr group with ``embeddings`` and, for sorting, ``package``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy.special import bdtr
from threadpoolctl import threadpool_limits

import rankme_stream
from benchmarks.harness.experiment import Experiment, table
from rankme_stream.measuring.escalation import Reader
from rankme_stream.measuring.sampling.sample import Sample
from rankme_stream.measuring.sampling.sequential import look_at
from rankme_stream.numerics import machine
from rankme_stream.passes.planning.sample_design import draw_design
from rankme_stream.sources import open_source
from rankme_stream.spectra import metrics
from rankme_stream.spectra.estimates import METRICS, estimate_all, estimate_rankme

_CONFIDENCE = 0.95
_HOLDS = 0.94  # coverage that no cell may be shown to be below
_SIGNIFICANCE = 0.05  # of all cells together (Holm)
_POOLED = (0.94, 0.99)
_FEWEST = 20  # intervals of a cell; fewer errors have no 95 % quantile, and no mean that could be told from chance
_SHARP = 1.5  # times the 95 % quantile of the errors: the median half-width at most
_BIASED = 0.1  # of the median half-width: the bias of the corrected value at most
_WIDEST = 768  # features
_BUNDLED = Path(rankme_stream.__file__).parent / "cli" / "data" / "minilm-docstrings-4096.zarr"


@dataclass(frozen=True)
class Kind:
    """Dumps of one kind: ``draw`` returns the rows for a seed, ``population`` is RankMe of infinitely many or None."""

    name: str
    draw: Callable[[int], np.ndarray]
    population: float | None = None
    share: float = 1.0  # of the seeds


def _gaussian(n_rows: int, spectrum: np.ndarray, dtype: str = "float32") -> Callable[[int], np.ndarray]:
    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        return (generator.standard_normal((n_rows, spectrum.size), dtype=np.float32) * spectrum).astype(dtype)

    return draw


def _heavy_tailed(n_rows: int, spectrum: np.ndarray) -> Callable[[int], np.ndarray]:
    """Rows of a multivariate t distribution with 6 degrees of freedom."""

    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        rows = generator.standard_normal((n_rows, spectrum.size)) * spectrum
        return (rows / np.sqrt(generator.chisquare(6, size=(n_rows, 1)) / 6)).astype(np.float32)

    return draw


def _clusters(n_rows: int, spectrum: np.ndarray, *, is_sorted: bool, count: int = 50) -> Callable[[int], np.ndarray]:
    """Rows about the centres of clusters of uneven size."""

    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        centres = 1.5 * generator.standard_normal((count, spectrum.size)) * spectrum
        label = generator.choice(count, size=n_rows, p=generator.dirichlet(np.full(count, 3.0)))
        if is_sorted:
            label.sort()
        return (centres[label] + generator.standard_normal((n_rows, spectrum.size)) * spectrum).astype(np.float32)

    return draw


def _near_duplicates(n_rows: int, spectrum: np.ndarray, copies: int = 4) -> Callable[[int], np.ndarray]:
    """Runs of rows that differ by a hundredth."""

    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        rows = np.repeat(generator.standard_normal((-(-n_rows // copies), spectrum.size)), copies, axis=0)[:n_rows]
        return ((rows + 0.01 * generator.standard_normal(rows.shape)) * spectrum).astype(np.float32)

    return draw


def _drifting(n_rows: int, spectrum: np.ndarray) -> Callable[[int], np.ndarray]:
    """Rows of which the mean moves and the spectrum steepens from the first to the last."""

    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        time = np.linspace(0.0, 1.0, n_rows)[:, None]
        rows = generator.standard_normal((n_rows, spectrum.size)) * spectrum ** (1.0 + time)
        return (rows + np.sin(3.0 * time + np.arange(spectrum.size)) * spectrum).astype(np.float32)

    return draw


def _real(rows: np.ndarray, order: np.ndarray | None) -> Callable[[int], np.ndarray]:
    """Real embeddings in that order, the same for every seed; in a random one where none is given."""

    def draw(seed: int) -> np.ndarray:
        return rows[np.random.default_rng(seed).permutation(len(rows)) if order is None else order]

    return draw


def wide_kinds(n_features: int) -> list[Kind]:
    """Return kinds of dumps of wide rows, with a tenth of the seeds."""
    n_rows, half = 160 * n_features, np.arange(1, n_features + 1, dtype=np.float32) ** -0.5
    return [
        Kind(f"Gaussian, {n_features} features", _gaussian(n_rows, half), _rankme(half), 0.1),
        Kind(f"clusters, sorted, {n_features} features", _clusters(n_rows, half, is_sorted=True), share=0.1),
    ]


def widest_kinds(n_features: int) -> list[Kind]:
    """Return kinds of dumps of so wide rows that chance leaves less than the second order of the bias."""
    n_rows, k = 40 * n_features, np.arange(1, n_features + 1, dtype=np.float32)
    shapes = {"flat": k**0, "s ~ k^-1/4": k**-0.25, "s ~ k^-1/2": k**-0.5}
    return [
        Kind(f"Gaussian, {name}, {n_features} features", _gaussian(n_rows, shape), _rankme(shape), 0.1)
        for name, shape in shapes.items()
    ]


def kinds(n_features: int, n_rows: int, dump: str | None) -> list[Kind]:
    """Return the kinds of dumps."""
    k = np.arange(1, n_features + 1, dtype=np.float32)
    half = k**-0.5
    few = np.where(k <= n_features // 8, np.float32(1.0), np.float32(0.02))
    group = zarr.open_group(dump or _BUNDLED, mode="r")
    real = np.asarray(group["embeddings"])
    # as many rows a feature as the other kinds have, of the first features
    real = real[:, : max(8, min(n_features, len(real) * n_features // n_rows))]
    order = np.argsort(np.asarray(group["package"]), kind="stable") if "package" in group else _similar_rows(real)
    steep = np.exp(-8 * k / n_features)

    def with_mean(seed: int) -> np.ndarray:
        return _gaussian(n_rows, half, "float16")(seed) + np.float16(0.5)

    return [
        Kind("Gaussian, flat", _gaussian(n_rows, k**0), _rankme(k**0)),
        Kind("Gaussian, s ~ k^-1/2", _gaussian(n_rows, half), _rankme(half)),
        Kind("Gaussian, s ~ k^-1", _gaussian(n_rows, 1 / k), _rankme(1 / k)),
        Kind("Gaussian, s ~ exp(-8 k/D)", _gaussian(n_rows, steep), _rankme(steep)),
        Kind("Gaussian, D/8 strong, rest 0.02", _gaussian(n_rows, few), _rankme(few)),
        Kind("Gaussian with a mean, float16", with_mean, _rankme(half, mean=0.5)),
        Kind("heavy tails, t with 6 degrees", _heavy_tailed(n_rows, half), _rankme(half)),
        Kind("clusters, random order", _clusters(n_rows, half, is_sorted=False)),
        Kind("clusters, sorted", _clusters(n_rows, half, is_sorted=True)),
        Kind("near-duplicates in runs of 4", _near_duplicates(n_rows, half), _rankme(half)),
        Kind("drifting", _drifting(n_rows, half)),
        Kind(f"real, {real.shape[1]} features, random order", _real(real, None)),
        Kind(f"real, {real.shape[1]} features, sorted", _real(real, order)),
    ]


def _rankme(spectrum: np.ndarray, mean: float = 0.0) -> float:
    """RankMe of infinitely many rows with independent features of those standard deviations and that mean."""
    gram = np.diag(spectrum.astype(np.float64) ** 2) + mean**2
    return metrics.rankme(np.sqrt(np.linalg.eigvalsh(gram)[::-1]))


def _similar_rows(rows: np.ndarray) -> np.ndarray:
    """Order of the rows along their first principal axis, where no label sorts them."""
    exact = rows.astype(np.float64)
    return np.argsort((exact - exact.mean(axis=0)) @ np.linalg.svd(exact, full_matrices=False)[2][0], kind="stable")


def trial(rows: np.ndarray, seed: int, tolerance: float) -> dict[str, Any]:
    """Sample a dump once: RankMe at every look, where early stopping would end, every metric at the last look."""
    exact = rows.astype(np.float64)
    truth = metrics.rankme(np.linalg.svd(exact.T @ exact, compute_uv=False) ** 0.5)
    source = open_source(rows)
    reader = Reader(source, (0, len(rows)), False, 1, None, "error", "error")
    drawn = draw_design(rows=(0, len(rows)), n_features=rows.shape[1], bounds=source.bounds(0, len(rows)), seed=seed)
    sample = Sample(reader, ("gram", "float64"), drawn, confidence=_CONFIDENCE, population=False)
    looks = []
    for n_units in drawn.looks(64 * rows.shape[1]):
        sample.read_to(n_units)
        look = look_at(sample)
        rankme, is_stop = look.rankme, look.is_within(tolerance)
        raw = rankme.details.get("sample")
        looks.append([look.rows, rankme.value, rankme.lower, rankme.upper, raw, is_stop])
    found = sample.estimates("raw", METRICS, estimate_all)
    whole = estimate_all(_spectrum(rows))
    held = {
        name: whole[name].value is not None and one.lower <= whole[name].value <= one.upper
        for name, one in found.items()
        if one.value is not None and one.lower is not None and one.upper is not None
    }
    sample.population = True
    part = sample.widened(estimate_rankme(sample.spectrum))
    every = sample.of_population("raw", {"rankme": METRICS["rankme"]}, {"rankme": whole["rankme"]})["rankme"]
    population = [[one.lower, one.upper] for one in (part, every)]
    return {"truth": truth, "looks": looks, "held": held, "population": population}


def _spectrum(rows: np.ndarray) -> Any:
    return rankme_stream.measure(rows, workers=1).spectrum


_MADE: list[Kind] = []  # in each worker process


def _prepare(n_features: int, n_rows: int, wide: int, dump: str | None) -> None:
    threadpool_limits(1)
    _MADE.extend(kinds(n_features, n_rows, dump))
    if wide:
        _MADE.extend(wide_kinds(wide) + widest_kinds(_WIDEST))


def _trial(place: int, seed: int, tolerance: float) -> dict[str, Any]:
    return trial(_MADE[place].draw(seed), seed, tolerance)


def trials(pool: ProcessPoolExecutor, place: int, n_seeds: int) -> dict[str, Any]:
    """Sample all dumps of a kind; early stopping has the half-width of one more dump as its tolerance."""
    kind = _MADE[place]
    pilot = _trial(place, n_seeds, 0.0)["looks"]
    middle = next(look for look in pilot[len(pilot) // 2 :] if look[1] is not None)
    tolerance = (middle[3] - middle[2]) / 2 / middle[1]
    seeds = range(round(kind.share * n_seeds))
    every = list(pool.map(_trial, *zip(*[(place, seed, tolerance) for seed in seeds], strict=True)))
    return {"kind": kind.name, "population": kind.population, "tolerance": tolerance, "trials": every}


def cells(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Sum up the looks of a kind, one size a cell, and early stopping."""
    every = found["trials"]
    columns = [
        (f"{looks[0][0]:,}", [[*look, one["truth"]] for look, one in zip(looks, every, strict=True)])
        for looks in zip(*(one["looks"] for one in every), strict=True)
    ]
    stopped = []
    for one in every:
        end = next((look for look in one["looks"] if look[5]), one["looks"][-1])
        stopped.append([*end, one["truth"]])
    return [_cell(found["kind"], name, looks) for name, looks in [*columns, ("stopped early", stopped)]]


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
        "p": float(bdtr(held, len(stated), _HOLDS)),
        "half_width": half_width / float(truth.mean()),
        "sharpness": half_width / float(np.quantile(np.abs(value - truth), 0.95)),
        "bias": float((value - truth).mean()) / half_width,
        "bias_error": float((value - truth).std() / len(stated) ** 0.5) / half_width,
        "uncorrected_bias": float((raw - truth).mean()) / half_width,
    }


def rejected(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells shown to hold less often than they should: Holm's step-down over all cells."""
    ordered = sorted((cell for cell in found if cell["stated"]), key=lambda cell: float(cell["p"]))
    bad = []
    for place, cell in enumerate(ordered):
        if cell["p"] > _SIGNIFICANCE / (len(ordered) - place):
            break
        bad.append(cell)
    return bad


def measured(
    experiment: Experiment, *, n_features: int, n_rows: int, n_seeds: int, wide: int, dump: str | None
) -> dict[str, Any]:
    """Measure every kind."""
    found, held, populations = [], [], []
    _prepare(n_features, n_rows, wide, dump)
    names = [kind.name for kind in _MADE]
    workers = machine.cores()
    spawned, arguments = get_context("spawn"), (n_features, n_rows, wide, dump)
    with ProcessPoolExecutor(workers, spawned, initializer=_prepare, initargs=arguments) as pool:
        for place, name in enumerate(names):
            part = experiment.part(name, trials, pool, place, n_seeds)
            found += cells(part)
            held.append({"kind": name} | _held(part["trials"]))
            if part["population"] is not None:
                populations.append({"kind": name} | _population(part))
    stated = [cell for cell in found if cell["stated"]]
    return {
        "n_features": n_features, "n_rows": n_rows, "n_seeds": n_seeds, "cells": found, "metrics": held,
        "populations": populations,
        "pooled": sum(cell["held"] for cell in stated) / sum(cell["stated"] for cell in stated),
        "rejected": rejected(found),
    }  # fmt: skip


def _held(every: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    names = sorted({name for one in every for name in one["held"]}, key=list(METRICS).index)
    return {
        name: [sum(one["held"].get(name, False) for one in every), sum(name in one["held"] for one in every)]
        for name in names
    }


def _population(part: dict[str, Any]) -> dict[str, int]:
    """How often the intervals for what the rows were drawn from held, from a part of them and from all."""
    truth = part["population"]
    ends = np.array([one["population"] for one in part["trials"]], float)  # trial, part or all, lower or upper
    held = ((ends[..., 0] <= truth) & (truth <= ends[..., 1])).sum(axis=0)
    return {"stated": len(ends), "part": int(held[0]), "all": int(held[1])}


def markdown(result: dict[str, Any]) -> str:
    """Return the tables."""
    stated = [cell for cell in result["cells"] if cell["stated"]]
    judged = [cell for cell in stated if cell["stated"] >= _FEWEST]
    blunt = [cell for cell in judged if cell["sharpness"] > _SHARP]
    biased = [cell for cell in judged if abs(cell["bias"]) > _BIASED + 2 * cell["bias_error"]]
    low, high = _POOLED
    lines = [
        "# Whether the intervals of a sample hold",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; {result['n_rows']:,} rows x "
        f"{result['n_features']} features unless told, seeds 0 to {result['n_seeds'] - 1}, a dump and a sample each; "
        f"intervals for RankMe of all rows at {_CONFIDENCE:.0%}.",
        "",
        f"- Cells shown to hold less often than {_HOLDS:.0%} (one-sided exact binomial test, Holm over "
        f"{len(stated)} cells at {_SIGNIFICANCE}): {len(result['rejected'])}.",
        f"- Pooled: {result['pooled']:.2%} (wanted {low:.0%} to {high:.0%}).",
        f"- Median half-width above {_SHARP} times the 95 % quantile of the errors: {len(blunt)} of {len(judged)} "
        f"(cells of at least {_FEWEST} intervals).",
        f"- Bias of the corrected value shown to be above {_BIASED} of the median half-width: {len(biased)} of "
        f"{len(judged)}.",
    ]
    header = ["dump", "rows read", "held", "half-width", "/ 95 % of errors", "bias / half-width", "uncorrected"]
    rows = []
    for cell in result["cells"]:
        start = [cell["kind"], cell["rows"], f"0 of {cell['stated']}"]
        if cell["stated"]:
            size = cell["rows"] if cell["rows"][0].isdigit() else f"{cell['rows']}, {cell['mean_rows']:,.0f}"
            start = [
                cell["kind"],
                size,
                f"{cell['held']} of {cell['stated']}" + (": NO" * (cell in result["rejected"])),
            ]
            start += [
                f"{cell['half_width']:.2%}", f"{cell['sharpness']:.2f}" + ": NO" * (cell in blunt),
                f"{cell['bias']:+.2f} ± {cell['bias_error']:.2f}" + ": NO" * (cell in biased),
                f"{cell['uncorrected_bias']:+.2f}",
            ]  # fmt: skip
        rows.append(start + [""] * (len(header) - len(start)))
    lines += table("RankMe", header, rows)
    lines += [
        "",
        "Held: of the samples for which an interval is stated; none is below 8 effective rows a feature. Early "
        "stopping ends at the first look whose half-width is at most that of the middle look of one more such dump.",
    ]
    lines += table(
        "RankMe of what the rows were drawn from: intervals that held",
        ["dump", "from the last look", "from every row"],
        [
            [row["kind"], *[f"{row[key]} of {row['stated']}" for key in ("part", "all")]]
            for row in result["populations"]
        ],
    )
    names = [name for name in METRICS if any(name in row for row in result["metrics"])]
    lines += table(
        "Every metric at the last look: intervals that held",
        ["dump", *names],
        [
            [row["kind"], *[f"{row[name][0]} of {row[name][1]}" if name in row else "" for name in names]]
            for row in result["metrics"]
        ],
    )
    return "\n".join(lines)


def main() -> int:
    """Measure, print the tables and write them where asked; 1 if the intervals do not hold."""
    experiment = Experiment("coverage", __doc__, {"quick": "10 s", "default": "10 minutes"})
    experiment.parser.add_argument("--dump", help="zarr group of real embeddings; the bundled one when not given")
    arguments = experiment.start()
    sizes = {"n_features": 64, "n_rows": 25_600, "n_seeds": 300, "wide": 288}
    if experiment.size == "quick":
        sizes = {"n_features": 16, "n_rows": 4_096, "n_seeds": 4, "wide": 0}
    result = experiment.finish(measured(experiment, **sizes, dump=arguments.dump), markdown)
    return 0 if not result["rejected"] or experiment.size == "quick" else 1
