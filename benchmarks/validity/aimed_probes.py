"""Do the intervals of float32 hold against an adversary who knows everything but the seed of the probes?

``python -m benchmarks aimed_probes`` aims errors of products at the probes that measure them: at one feature, at two,
at a few, at a direction of all features, at many directions; then it makes rows whose float32 errors lie in one
feature, in two, in a few panels among exact ones, or in all panels alike. It draws the probes from seed after seed,
counts how often the true error exceeds what is stated, and compares the count with the stated confidence.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import binom
from threadpoolctl import threadpool_limits

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment, Size, table
from rankme_stream.accumulators import error_probes
from rankme_stream.accumulators.error_probes import CONFIDENCE, SAFETY
from rankme_stream.accumulators.float32_gram import Float32GramAccumulator
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.testing import with_ones

_CHANCE = 1e-4  # that a count of misses above the number allowed is bad luck
_PANEL = 1024
_METRICS = ("rankme", "effective_rank", "variance_effective_rank", "participation_ratio", "stable_rank", "nesum")


def _one(n: int, generator: np.random.Generator) -> np.ndarray:
    found = np.zeros((1, n))
    found[0, generator.integers(n)] = 1.0
    return found


def _two(n: int, generator: np.random.Generator) -> np.ndarray:
    found, angle = np.zeros((1, n)), generator.uniform(0, 2 * np.pi)
    found[0, generator.choice(n, 2, replace=False)] = np.cos(angle), np.sin(angle)
    return found


def _few(n: int, generator: np.random.Generator) -> np.ndarray:
    found = np.zeros((1, n))
    found[0, generator.choice(n, min(n, 8), replace=False)] = generator.standard_normal(min(n, 8))
    return found


def _all(n: int, generator: np.random.Generator) -> np.ndarray:
    return generator.choice([-1.0, 1.0], (1, n))


def _falling(n: int, generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal((8, n)) * 10.0 ** -np.arange(8.0)[:, None]


ERRORS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "one feature": _one, "two features": _two, "eight features": _few, "a direction of all features": _all,
    "eight directions, each a tenth of the last": _falling,
}  # fmt: skip


def aimed_errors(n_features: int, n_seeds: int) -> dict[str, int]:
    """Return how often an error F'F, of each kind, exceeds four estimates; the error is drawn before the seed is."""
    misses = dict.fromkeys(ERRORS, 0)
    for seed in range(n_seeds):
        directions = error_probes._directions(n_features, seed, HOST)[1:]
        generator = np.random.default_rng([n_features, seed])
        for kind, draw in ERRORS.items():
            factor = draw(n_features, generator)
            true = np.linalg.norm(factor @ factor.T)  # that of F'F
            estimate = np.linalg.norm(factor.T @ (factor @ directions)) / np.sqrt(directions.shape[1])
            misses[kind] += bool(true > SAFETY * estimate)
    return misses


def _alike(panels: int, n: int, generator: np.random.Generator, bad: int) -> np.ndarray:
    """Return exact rows of signs, with panels among them of rows all alike, whose sums in float32 round one way."""
    rows = generator.choice([-1.0, 1.0], (panels * _PANEL, n))
    for panel in generator.choice(panels, bad, replace=False):
        rows[panel * _PANEL : (panel + 1) * _PANEL] = generator.uniform(1.2, 1.9, n)
    return rows.astype(np.float32)


def _in_features(n: int, generator: np.random.Generator, count: int) -> np.ndarray:
    """Return rows that float32 multiplies exactly but for some features."""
    rows = generator.choice([-1.0, 1.0], (2 * _PANEL, n))
    rows[:, generator.choice(n, count, replace=False)] = generator.uniform(1, 2, (2 * _PANEL, count))
    return rows.astype(np.float32)


ROWS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "one feature of 40": lambda g: _in_features(40, g, 1),
    "two features of 40": lambda g: _in_features(40, g, 2),
    "1 panel of 24": lambda g: _alike(24, 16, g, 1),
    "3 panels of 24": lambda g: _alike(24, 16, g, 3),
    "every panel": lambda g: _alike(4, 16, g, 4),
    "ordinary rows": lambda g: g.standard_normal((2 * _PANEL, 40)),
}


def aimed_rows(kind: str, n_seeds: int) -> dict[str, float]:
    """Return how often the true error of a float32 Gram, and of its column sums, exceeds the stated one."""
    generator = np.random.default_rng(list(kind.encode()))
    misses = missed_sums = 0
    largest = 0.0
    for first in range(0, n_seeds, 100):  # other rows for every hundred seeds
        rows = ROWS[kind](generator)
        true, true_sums = _true_errors(rows)
        for seed in range(first, min(first + 100, n_seeds)):
            gram, sums = _absorbed(rows, seed)._measured_errors()
            largest = max(largest, true / gram)
            misses, missed_sums = misses + (true > gram), missed_sums + (true_sums > sums)
    return {"seeds": n_seeds, "misses": misses, "missed sums": missed_sums, "largest": largest}


def _absorbed(rows: np.ndarray, seed: int) -> Float32GramAccumulator:
    accumulator = Float32GramAccumulator(rows.shape[1], seed=seed)
    for start in range(0, len(rows), _PANEL):
        accumulator.update(with_ones(rows[start : start + _PANEL]), start)
    return accumulator


def _true_errors(rows: np.ndarray) -> tuple[float, float]:
    """Return the errors of Gram and column sums, from sums of 64 bits and more."""
    wide = rows.astype(np.longdouble)
    gram = _absorbed(rows, 0)._gram.lower()
    difference = np.tril(gram[1:, 1:] - wide.T @ wide)
    squares = 2 * np.square(difference).sum() - np.square(np.diagonal(difference)).sum()
    return float(np.sqrt(squares)), float(np.sqrt(np.square(gram[1:, 0] - wide.sum(axis=0)).sum()))


def aimed_passes(n_seeds: int) -> dict[str, int]:
    """Return how many of the numbers of whole passes miss those of float64 passes over the same rows."""
    counts = {"passes": 0, "numbers": 0, "missed": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rs.ToleranceWarning)
        for seed in range(n_seeds):
            rows = _alike(60, 64, np.random.default_rng(seed), 3)
            found, true = (
                rs.measure(rows, method="gram", precision=precision, seed=seed, workers=1)
                for precision in ("float32", "float64")
            )
            counts["passes"] += 1
            for name in _METRICS:
                one, other = found[name], true[name]
                assert one.lower is not None and one.upper is not None
                assert other.lower is not None and other.upper is not None
                counts["numbers"] += 1
                counts["missed"] += one.lower > other.upper or one.upper < other.lower
    return counts


def _allowed(n_seeds: int) -> int:
    return int(binom.ppf(1 - _CHANCE, n_seeds, 1 - CONFIDENCE))


def measured(experiment: Experiment, widths: dict[int, int], n_seeds: int, n_passes: int) -> dict[str, Any]:
    """Run all parts."""
    with threadpool_limits(1, user_api="blas"):
        errors = [
            {"features": width, "seeds": count, "allowed": _allowed(count),
             "misses": experiment.part(f"errors, {width:,} features", aimed_errors, width, count)}
            for width, count in widths.items()
        ]  # fmt: skip
        rows = {
            kind: experiment.part(f"rows, {kind}", aimed_rows, kind, n_seeds) | {"allowed": _allowed(n_seeds)}
            for kind in ROWS
        }
        passes = experiment.part("passes", aimed_passes, n_passes) | {"allowed": _allowed(n_passes)}
    failed = [f"errors, {one['features']:,} features, {kind}" for one in errors
              for kind, misses in one["misses"].items() if misses > one["allowed"]]  # fmt: skip
    failed += [f"rows, {kind}" for kind, one in rows.items() if one["misses"] > one["allowed"] or one["missed sums"]]
    failed += ["passes"] if passes["missed"] > passes["allowed"] * len(_METRICS) else []
    return {"confidence": CONFIDENCE, "errors": errors, "rows": rows, "passes": passes, "failed": failed}


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    passes = result["passes"]
    lines = [
        "# Float32 errors aimed at the probes that measure them",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}.",
        "",
        f"The stated confidence is {result['confidence']:g} over the seed. *Allowed* is the number of misses that as "
        "many seeds exceed with probability 1e-4 where the confidence is just that. Failed: "
        f"{', '.join(result['failed']) or 'nothing'}.",
    ]
    lines += table(
        "Errors of a product, drawn before the seed",
        ["features", "seeds", *ERRORS, "allowed"],
        [[f"{one['features']:,}", f"{one['seeds']:,}", *(one["misses"][kind] for kind in ERRORS), one["allowed"]]
         for one in result["errors"]],
    )  # fmt: skip
    lines += table(
        "Rows whose float32 errors lie in",
        ["where", "seeds", "Gram missed", "allowed", "column sums missed", "largest error / stated"],
        [[kind, f"{one['seeds']:,}", one["misses"], one["allowed"], one["missed sums"], f"{one['largest']:.2g}"]
         for kind, one in result["rows"].items()],
    )  # fmt: skip
    lines += [
        "",
        f"Of {passes['passes']:,} whole passes over exact rows with three panels that err, {passes['missed']} of "
        f"{passes['numbers']:,} intervals missed that of a float64 pass.",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page; return 1 if more was missed than the confidence allows."""
    minutes: dict[Size, str] = {"quick": "10 s", "default": "15 minutes"}
    experiment = Experiment("aimed_probes", __doc__, minutes)
    experiment.start()
    sizes: dict[str, tuple[dict[int, int], int, int]] = {
        "quick": ({64: 500, 768: 50}, 40, 2),
        "default": ({2: 100_000, 16: 100_000, 64: 100_000, 768: 40_000, 4096: 10_000, 16_384: 2_000}, 4000, 100),
    }
    return int(bool(experiment.finish(measured(experiment, *sizes[experiment.size]), markdown)["failed"]))
