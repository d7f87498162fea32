"""Can spectra made for it break the intervals of sketches, and how much wider than needed are these?

``python -m benchmarks adversarial`` sketches matrices by one and by several passes of the randomized SVD and by
Frequent Directions. A hill climb changes their spectra so that RankMe moves towards an end of its interval, and every
metric of every matrix is compared with its true value. Then it searches the matrices that have one and the same sketch
for the least and the greatest RankMe: an interval must hold everything between these two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.harness.experiment import Experiment, Size, table
from rankme_stream.accumulators.frequent_directions import FrequentDirectionsAccumulator
from rankme_stream.accumulators.nystrom.accumulator import NystromAccumulator
from rankme_stream.accumulators.nystrom.test_vectors import PROBES, LaterPass
from rankme_stream.spectra import estimates, metrics
from rankme_stream.spectra.spectrum import Spectrum
from rankme_stream.testing import with_ones

_ROUNDOFF = 2.0**-53
_SLACK = 1e-9  # relative error allowed to the true value, which is from an SVD in float64
_STEPS = 40  # of a hill climb
_FEATURES = ((12, 49), (80, 161))  # for one pass, and for several, whose probes must not span all features
METHODS = ("rsvd", "rsvd, 2 passes", "rsvd, 3 passes", "frequent directions")


def accumulated(rows: np.ndarray, method: str, rank: int, seed: int) -> Any:
    """Return the accumulator of rows after its last pass."""
    n_features = rows.shape[1]
    if method == "frequent directions":
        sketch: Any = FrequentDirectionsAccumulator(n_features, sketch_size=rank)
        sketch.update(with_ones(rows), 0)
        return sketch
    later = None
    for pass_number in range(1 if method == "rsvd" else int(method.split()[1])):
        columns = rank + (PROBES if pass_number else 0)
        sketch = NystromAccumulator(n_features, sketch_size=columns, seed=seed, later=later)
        sketch.update(with_ones(rows), 0)
        later = LaterPass(pass_number + 1, sketch.directions())
    return sketch


def shapes(generator: np.random.Generator, m: int) -> np.ndarray:
    """Return a random descending spectrum: levels, powers, geometric decay, flat tails or noise."""
    k = np.arange(1.0, m + 1)
    head = int(generator.integers(1, m + 1))
    tail = int(generator.integers(head, m + 1))
    drawn: list[Callable[[], np.ndarray]] = [
        lambda: k ** -generator.uniform(0.0, 3.0),
        lambda: np.exp(-k * generator.uniform(0.0, 3.0)),
        lambda: np.where(k <= head, 1.0, 10.0 ** -generator.uniform(0.0, 9.0)),
        lambda: np.where(k <= head, 1.0, np.where(k <= tail, 10.0 ** -generator.uniform(0.0, 3.0), 0.0)),
        lambda: np.where(k <= 1, 10.0 ** generator.uniform(0.0, 4.0), generator.random(m)),
        lambda: generator.random(m) ** generator.uniform(0.1, 6.0),
    ]
    return np.sort(drawn[int(generator.integers(len(drawn)))]())[::-1]


def rows_of(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return rows with given singular values; some have the features as directions, some are then shifted by a mean."""
    m = values.size
    directions = np.eye(m) if generator.random() < 0.3 else np.linalg.qr(generator.standard_normal((m, m)))[0]
    left = np.linalg.qr(generator.standard_normal((2 * m, m)))[0]
    return (left * values) @ directions.T + (generator.random() if generator.random() < 0.2 else 0.0)


def judged(rows: np.ndarray, spectrum: Spectrum) -> tuple[list[str], float]:
    """Return the metrics whose intervals fail, and the distance of RankMe from an end of its own, in widths."""
    failed, nearest = [], 1.0
    values = {
        False: np.linalg.svd(rows, compute_uv=False),
        True: np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False),
    }
    for name, estimate in estimates.estimate_all(spectrum).items():
        metric = estimates.METRICS[name]
        if estimate.lower is None or estimate.upper is None or name in ("numerical_rank", "condition_number"):
            continue  # an SVD in float64 does not give these two well enough
        true = metric.compute(values[metric.centered], spectrum)
        true = float(true[0] if isinstance(true, tuple) else true)
        slack = _SLACK * abs(true) + 1e-12
        lower, upper = estimate.lower, estimate.upper
        if not lower - slack <= true <= upper + slack:
            failed.append(f"{name} {true!r} not in [{lower!r}, {upper!r}]")
        if name == "rankme" and upper > lower:
            nearest = min(true - lower, upper - true) / (upper - lower)
    return failed, nearest


def climb(method: str, first: int, count: int) -> dict[str, Any]:
    """Try ``count`` spectra: random ones, and from each of these further ones whose RankMe is ever nearer to an end."""
    n_tried, failures, nearest = 0, [], 1.0
    start = first
    while n_tried < count:
        generator = np.random.default_rng([start, len(method)])
        start += 1
        m = int(generator.integers(*_FEATURES[method in METHODS[1:3]]))
        rank = int(generator.integers(1, m // 2 + 1))
        seed = int(generator.integers(2**32))
        values, best = shapes(generator, m), 2.0
        for step in range(min(_STEPS, count - n_tried)):
            tried = values if step == 0 else _changed(values, generator)
            rows = rows_of(tried, np.random.default_rng([start, 1]))
            failed, near = judged(rows, accumulated(rows, method, rank, seed).spectrum(unit_roundoff=_ROUNDOFF))
            n_tried += 1
            failures += [f"{method}, m = {m}, rank {rank}, start {start}, step {step}: {text}" for text in failed]
            if near < best:
                values, best = tried, near
        nearest = min(nearest, best)
    return {"tried": n_tried, "failures": failures, "nearest": nearest}


def _changed(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a spectrum with some values raised, lowered, levelled or dropped."""
    changed = values.copy()
    low, high = np.sort(generator.integers(0, values.size, 2))
    some = slice(int(low), int(high) + 1)
    kind = generator.integers(4)
    if kind == 0:
        changed[some] *= np.exp(generator.standard_normal() * 0.5)
    elif kind == 1:
        changed[some] = np.sqrt(np.mean(changed[some] ** 2))
    elif kind == 2:
        changed[some] *= np.exp(0.3 * generator.standard_normal(changed[some].size))
    else:
        changed[some] *= generator.choice([0.0, 1e-3])
    return np.sort(changed)[::-1] if changed.any() else values


def open_set(method: str, seed: int, n_features: int, n_searched: int) -> dict[str, Any]:
    """Compare the interval of a sketch with RankMe of other matrices that have the same sketch."""
    generator = np.random.default_rng([seed, 7])
    k = np.arange(1.0, n_features + 1)
    name = ("k^-1/2", "k^-1", "flat", "exponential")[seed % 4]
    values = {"k^-1/2": k**-0.5, "k^-1": 1 / k, "flat": k**0, "exponential": np.exp(-k / 6)}[name]
    rank = (n_features // 8, n_features // 4)[seed // 4 % 2]
    rows = (np.linalg.qr(generator.standard_normal((2 * n_features, n_features)))[0] * values) @ (
        np.linalg.qr(generator.standard_normal((n_features, n_features)))[0]
    )
    sketch = accumulated(rows, method, rank, seed)
    rankme = estimates.estimate_rankme(sketch.spectrum(unit_roundoff=_ROUNDOFF))
    assert rankme.lower is not None and rankme.upper is not None
    least, most = np.inf, 0.0
    for gram in _same_sketch(rows, sketch, generator, n_searched):
        other = metrics.rankme(np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0)))
        least, most = min(least, other), max(most, other)
    return {
        "method": method, "spectrum": name, "features": n_features, "rank": rank, "lower": rankme.lower,
        "upper": rankme.upper, "least": least, "most": most, "ratio": (rankme.upper - rankme.lower) / (most - least),
    }  # fmt: skip


def _same_sketch(rows: np.ndarray, sketch: Any, generator: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """Yield Gram matrices with the same sketch: its own, plus the energy that it lacks, put where it does not look."""
    gram = rows.T @ rows
    if isinstance(sketch, FrequentDirectionsAccumulator):
        kept = np.asarray(sketch._rows[: sketch.filled])
        floor, free, most = kept.T @ kept, np.eye(len(gram)), sketch.shrunk
    else:
        vectors = np.asarray(sketch.vectors.on(sketch.device))[1:, 1:]
        images = vectors @ gram
        floor = images.T @ np.linalg.pinv(vectors @ images.T, hermitian=True) @ images
        complement = np.linalg.svd(vectors)[2][min(vectors.shape) :]
        free, most = complement, np.inf
    missing = float(np.trace(gram) - np.trace(floor))
    _, axes = np.linalg.eigh(free @ floor @ free.T)
    yield gram
    for number in range(count if len(free) else 0):
        basis = axes[:, ::-1] if number % 3 == 0 else axes
        if number % 3 == 2:
            basis = np.linalg.qr(generator.standard_normal(axes.shape))[0]
        shares = _distribute(missing, len(free), most, generator, number)
        added = (free.T @ basis) * shares
        yield floor + added @ (free.T @ basis).T


def _distribute(energy: float, size: int, most: float, generator: np.random.Generator, number: int) -> np.ndarray:
    """Return shares of the energy: equal, for the first few only, or by a power; none above ``most``."""
    kind = number // 3 % 3
    if kind == 0:
        shares = np.ones(size)
    elif kind == 1:
        shares = (np.arange(size) < generator.integers(1, size + 1)).astype(np.float64)
    else:
        shares = np.arange(1.0, size + 1) ** -generator.uniform(0.0, 4.0)
    for _ in range(60):  # spread the excess above the most over the others
        shares = np.minimum(shares * (energy / shares.sum()), most)
    if shares.sum() < energy * (1 - 1e-9):
        shares = shares + (energy - shares.sum()) / size
    return shares


def measured(experiment: Experiment, count: int, n_sets: int, n_features: int, n_searched: int) -> dict[str, Any]:
    """Try the spectra, and search the sets of matrices with the same sketch."""
    with threadpool_limits(1, user_api="blas"):
        tried = {
            method: experiment.part(f"{count:,} spectra, {method}", climb, method, 1000 * number, count)
            for number, method in enumerate(METHODS)
        }
        sets = [
            experiment.part(f"set {seed}, {method}", open_set, method, seed, n_features, n_searched)
            for method in METHODS
            for seed in range(n_sets)
        ]
    return {"tried": tried, "sets": sets}


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    tried = result["tried"]
    failures = [text for one in tried.values() for text in one["failures"]]
    ratios = [one["ratio"] for one in result["sets"]]
    lines = [
        "# Spectra made to break the intervals of sketches",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}.",
        "",
        f"{sum(one['tried'] for one in tried.values()):,} spectra, {len(failures)} intervals failed. *Nearest*: the "
        "least distance of RankMe from an end of its interval that a hill climb reached, in widths of the interval.",
    ]
    lines += table(
        "Hill climbs",
        ["sketch", "spectra", "failed", "nearest"],
        [[name, f"{one['tried']:,}", len(one["failures"]), f"{one['nearest']:.2g}"] for name, one in tried.items()],
    )
    lines += ["", *(f"- {text}" for text in failures[:20])]
    lines += table(
        "Width of the interval over the range that the same sketch allows",
        ["sketch", "spectrum", "rank of D", "lower", "least found", "greatest found", "upper", "width / range found"],
        [
            [
                one["method"], one["spectrum"], f"{one['rank']} of {one['features']}", f"{one['lower']:.4g}",
                f"{one['least']:.4g}", f"{one['most']:.4g}", f"{one['upper']:.4g}", f"{one['ratio']:.2f}",
            ]
            for one in result["sets"]
        ],
    )  # fmt: skip
    lines += [
        "",
        f"At most {max(ratios):.2f} times, {float(np.median(ratios)):.2f} in the median. The matrices found have the "
        "very same sketch. Intervals of several passes hold with a confidence, so they may leave out some of them.",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page; return 1 if an interval failed."""
    minutes: dict[Size, str] = {"quick": "20 s", "default": "15 minutes"}
    experiment = Experiment("adversarial", __doc__, minutes)
    experiment.start()
    sizes: dict[str, tuple[int, int, int, int]] = {"quick": (6, 2, 96, 8), "default": (2600, 8, 192, 300)}
    result = experiment.finish(measured(experiment, *sizes[experiment.size]), markdown)
    return int(any(one["failures"] for one in result["tried"].values()))
