"""Spectra made to break the intervals of sketches, and how much wider those are than what a sketch leaves open.

``python -m benchmarks adversarial`` sketches matrices whose spectra a climb bends towards the ends of the intervals, by
one and by several passes of the randomized SVD and by Frequent Directions; every metric of every one of them is
compared with the truth. Then it searches the matrices that a given sketch cannot tell apart for those of least and
greatest RankMe: what lies between them no interval can leave out.
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
_SLACK = 1e-9  # relative: of the truth, an SVD in float64
_STEPS = 40  # of a climb
_FEATURES = ((12, 49), (80, 161))  # of one pass, and of several, whose probes must not see all
METHODS = ("rsvd", "rsvd, 2 passes", "rsvd, 3 passes", "frequent directions")


def accumulated(rows: np.ndarray, method: str, rank: int, seed: int) -> Any:
    """Return the accumulator of rows after the last of its passes."""
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
    """Return a random spectrum, descending: levels, powers, geometric falls, packed tails and noise."""
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
    """Return rows of those singular values, now and then with features of their own and not about zero."""
    m = values.size
    directions = np.eye(m) if generator.random() < 0.3 else np.linalg.qr(generator.standard_normal((m, m)))[0]
    left = np.linalg.qr(generator.standard_normal((2 * m, m)))[0]
    return (left * values) @ directions.T + (generator.random() if generator.random() < 0.2 else 0.0)


def judged(rows: np.ndarray, spectrum: Spectrum) -> tuple[list[str], float]:
    """Return the metrics whose intervals fail, and how near RankMe comes to an end of its own, in widths."""
    failed, nearest = [], 1.0
    values = {
        False: np.linalg.svd(rows, compute_uv=False),
        True: np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False),
    }
    for name, found in estimates.estimate_all(spectrum).items():
        metric = estimates.METRICS[name]
        if found.lower is None or found.upper is None or name in ("numerical_rank", "condition_number"):
            continue  # what an SVD in float64 does not know well enough itself
        true = metric.compute(values[metric.centered], spectrum)
        true = float(true[0] if isinstance(true, tuple) else true)
        slack = _SLACK * abs(true) + 1e-12
        if not found.lower - slack <= true <= found.upper + slack:
            failed.append(f"{name} {true!r} not in [{found.lower!r}, {found.upper!r}]")
        if name == "rankme" and found.upper > found.lower:
            nearest = min(true - found.lower, found.upper - true) / (found.upper - found.lower)
    return failed, nearest


def climbed(method: str, first: int, count: int) -> dict[str, Any]:
    """Try so many spectra: some at random, and from each of these others that lie ever nearer to an end."""
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
            tried = values if step == 0 else _bent(values, generator)
            rows = rows_of(tried, np.random.default_rng([start, 1]))
            failed, near = judged(rows, accumulated(rows, method, rank, seed).spectrum(unit_roundoff=_ROUNDOFF))
            n_tried += 1
            failures += [f"{method}, m = {m}, rank {rank}, start {start}, step {step}: {text}" for text in failed]
            if near < best:
                values, best = tried, near
        nearest = min(nearest, best)
    return {"tried": n_tried, "failures": failures, "nearest": nearest}


def _bent(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a spectrum a little different: some values raised, lowered, levelled or dropped."""
    bent = values.copy()
    low, high = np.sort(generator.integers(0, values.size, 2))
    some = slice(int(low), int(high) + 1)
    kind = generator.integers(4)
    if kind == 0:
        bent[some] *= np.exp(generator.standard_normal() * 0.5)
    elif kind == 1:
        bent[some] = np.sqrt(np.mean(bent[some] ** 2))
    elif kind == 2:
        bent[some] *= np.exp(0.3 * generator.standard_normal(bent[some].size))
    else:
        bent[some] *= generator.choice([0.0, 1e-3])
    return np.sort(bent)[::-1] if bent.any() else values


def open_set(method: str, seed: int, n_features: int, n_searched: int) -> dict[str, Any]:
    """Compare the interval of a sketch with RankMe of matrices that have the same sketch."""
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
    for gram in _alike(rows, sketch, generator, n_searched):
        found = metrics.rankme(np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0)))
        least, most = min(least, found), max(most, found)
    return {
        "method": method, "spectrum": name, "features": n_features, "rank": rank, "lower": rankme.lower,
        "upper": rankme.upper, "least": least, "most": most, "ratio": (rankme.upper - rankme.lower) / (most - least),
    }  # fmt: skip


def _alike(rows: np.ndarray, sketch: Any, generator: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """Yield Gram matrices that have the same sketch: what it holds, and the energy it lacks put where it cannot see."""
    gram = rows.T @ rows
    if isinstance(sketch, FrequentDirectionsAccumulator):
        held = np.asarray(sketch._rows[: sketch.filled])
        floor, free, most = held.T @ held, np.eye(len(gram)), sketch.shrunk
    else:
        vectors = np.asarray(sketch.vectors.on(sketch.device))[1:, 1:]
        images = vectors @ gram
        floor = images.T @ np.linalg.pinv(vectors @ images.T, hermitian=True) @ images
        complement = np.linalg.svd(vectors)[2][min(vectors.shape) :]
        free, most = complement, np.inf
    left = float(np.trace(gram) - np.trace(floor))
    _, axes = np.linalg.eigh(free @ floor @ free.T)
    yield gram
    for number in range(count if len(free) else 0):
        turned = axes[:, ::-1] if number % 3 == 0 else axes
        if number % 3 == 2:
            turned = np.linalg.qr(generator.standard_normal(axes.shape))[0]
        shares = _given(left, len(free), most, generator, number)
        added = (free.T @ turned) * shares
        yield floor + added @ (free.T @ turned).T


def _given(left: float, size: int, most: float, generator: np.random.Generator, number: int) -> np.ndarray:
    """Return how the energy is given out: evenly, to the first few, or by a power; none more than allowed."""
    kind = number // 3 % 3
    if kind == 0:
        shares = np.ones(size)
    elif kind == 1:
        shares = (np.arange(size) < generator.integers(1, size + 1)).astype(np.float64)
    else:
        shares = np.arange(1.0, size + 1) ** -generator.uniform(0.0, 4.0)
    for _ in range(60):  # spread what is above the most over the others
        shares = np.minimum(shares * (left / shares.sum()), most)
    if shares.sum() < left * (1 - 1e-9):
        shares = shares + (left - shares.sum()) / size
    return shares


def measured(experiment: Experiment, count: int, n_sets: int, n_features: int, n_searched: int) -> dict[str, Any]:
    """Try the spectra and search the sets."""
    with threadpool_limits(1, user_api="blas"):
        tried = {
            method: experiment.part(f"{count:,} spectra, {method}", climbed, method, 1000 * place, count)
            for place, method in enumerate(METHODS)
        }
        sets = [
            experiment.part(f"set {seed}, {method}", open_set, method, seed, n_features, n_searched)
            for method in METHODS
            for seed in range(n_sets)
        ]
    return {"tried": tried, "sets": sets}


def markdown(result: dict[str, Any]) -> str:
    """Return the tables."""
    tried = result["tried"]
    failures = [text for one in tried.values() for text in one["failures"]]
    ratios = [one["ratio"] for one in result["sets"]]
    lines = [
        "# Spectra made to break the intervals of sketches",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}.",
        "",
        f"{sum(one['tried'] for one in tried.values()):,} spectra, {len(failures)} intervals failed. *Nearest*: the "
        "least distance of RankMe from an end of its interval that a climb reached, in widths of the interval.",
    ]
    lines += table(
        "Climbs",
        ["sketch", "spectra", "failed", "nearest"],
        [[name, f"{one['tried']:,}", len(one["failures"]), f"{one['nearest']:.2g}"] for name, one in tried.items()],
    )
    lines += ["", *(f"- {text}" for text in failures[:20])]
    lines += table(
        "How much wider than it must be",
        ["sketch", "spectrum", "rank of D", "lower", "least found", "most found", "upper", "width over what was found"],
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
        f"At most {max(ratios):.2f} times, {float(np.median(ratios)):.2f} in the median. What was found are matrices "
        "that have the very same sketch; intervals of several passes may leave some of them out, by their confidence.",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print the tables, write them where asked; 1 if an interval failed."""
    minutes: dict[Size, str] = {"quick": "20 s", "default": "15 minutes"}
    experiment = Experiment("adversarial", __doc__, minutes)
    experiment.start()
    sizes: dict[str, tuple[int, int, int, int]] = {"quick": (25, 2, 96, 20), "default": (2600, 8, 192, 300)}
    result = experiment.finish(measured(experiment, *sizes[experiment.size]), markdown)
    return int(any(one["failures"] for one in result["tried"].values()))
