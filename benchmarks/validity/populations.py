"""Populations whose metrics are known, and functions that draw rows from them: 24 kinds of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.random import Generator

from rankme_stream.spectra import metrics

METRICS_SHOWN = ("rankme", "variance_effective_rank", "participation_ratio")
_CLUSTERS = 40

Draw = Callable[[int, Generator], np.ndarray]


@dataclass(frozen=True)
class Population:
    """Rows of one kind, and their moments.

    Attributes
    ----------
    name, draw
        Name, and function that returns so many rows, shape (n_rows, D), from a generator.
    covariance
        Covariance of the rows, shape (D, D).
    mean
        Mean of the rows, shape (D,).
    is_independent
        Whether the rows are independent; if not, neighbours are alike, or rows are there twice.
    """

    name: str
    draw: Draw = field(repr=False)
    covariance: np.ndarray = field(repr=False)
    mean: np.ndarray = field(repr=False)
    is_independent: bool = True

    def truths(self) -> dict[str, float]:
        """Return the metrics of infinitely many rows."""
        raw = _singular_values(self.covariance + np.outer(self.mean, self.mean))
        centered = _singular_values(self.covariance)
        return {
            "rankme": metrics.rankme(raw),
            "variance_effective_rank": metrics.variance_effective_rank(centered),
            "participation_ratio": metrics.participation_ratio(centered),
        }


def _singular_values(moment: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(np.linalg.eigvalsh(moment)[::-1], 0.0))


def populations(n_features: int) -> list[Population]:
    """Return the kinds of rows in so many features."""
    return [
        *_gaussian(n_features),
        *_long_tailed(n_features),
        *_clusters(n_features),
        *_copies(n_features),
        *_other(n_features),
    ]


def _spectra(n_features: int) -> dict[str, np.ndarray]:
    """Return variances of features by the name of their singular values."""
    k = np.arange(1, n_features + 1)
    strong = max(4, n_features * 40 // 256)
    return {
        "flat": np.ones(n_features),
        "s ~ k^-1/2": 1.0 / k,
        "s ~ k^-1": 1.0 / k**2,
        f"{strong} strong, rest 0.001": np.where(k <= strong, 1.0, 1e-6),
        "s exponential": np.exp(-2.0 * k / (20.0 * n_features / 256.0)),
    }


def _half(n_features: int) -> np.ndarray:
    """Return the variances of most kinds: singular values fall like k^-1/2."""
    return 1.0 / np.arange(1, n_features + 1)


def _rotation(n_features: int) -> np.ndarray:
    """Return a random orthogonal matrix, the same each time."""
    return np.linalg.qr(np.random.default_rng(99).standard_normal((n_features, n_features)))[0]


def _normal(n_rows: int, generator: Generator, variances: np.ndarray) -> np.ndarray:
    return generator.standard_normal((n_rows, variances.size)) * np.sqrt(variances)


def _student(n_rows: int, generator: Generator, variances: np.ndarray, degrees: int = 5) -> np.ndarray:
    """Return rows of a multivariate t distribution, whose covariance is degrees/(degrees - 2) times the variances."""
    return _normal(n_rows, generator, variances) * np.sqrt(degrees / generator.chisquare(degrees, (n_rows, 1)))


def _gaussian(n_features: int) -> list[Population]:
    half, zero = _half(n_features), np.zeros(n_features)
    mean = 10.0 * np.sqrt(half.sum()) * _rotation(n_features)[0]
    return [
        *(
            Population(f"Gaussian, {name}", partial(_normal, variances=variances), np.diag(variances), zero)
            for name, variances in _spectra(n_features).items()
        ),
        Population("mean 10 times the spread", lambda n, g: mean + _normal(n, g, half), np.diag(half), mean),
    ]


def _long_tailed(n_features: int) -> list[Population]:
    half, zero = _half(n_features), np.zeros(n_features)
    steep = _spectra(n_features)["s ~ k^-1"]
    mean = 10.0 * np.sqrt(half.sum()) * _rotation(n_features)[0]
    name = "mean 10 times the spread, Student-5"
    return [
        Population("Student-5", partial(_student, variances=half), 5 / 3 * np.diag(half), zero),
        Population("Student-5, s ~ k^-1", partial(_student, variances=steep), 5 / 3 * np.diag(steep), zero),
        Population("Student-3", partial(_student, variances=half, degrees=3), 3 * np.diag(half), zero),
        Population(name, lambda n, g: mean + _student(n, g, half), 5 / 3 * np.diag(half), mean),
    ]


def _run_rows(n_features: int) -> int:
    """Return the length of the runs in which dependent rows are alike."""
    return 16 if n_features < 100 else 64


def _repeated(n_rows: int, run_rows: int, draw: Callable[[int], np.ndarray]) -> np.ndarray:
    """Return ``n_rows`` numbers, of which each drawn one is there ``run_rows`` times in a row."""
    return np.repeat(draw(-(-n_rows // run_rows)), run_rows)[:n_rows]


def _clusters(n_features: int) -> list[Population]:
    """Return kinds of rows around 40 centres, which are part of the population."""
    half, run_rows = _half(n_features), _run_rows(n_features)
    centres = np.random.default_rng(5).standard_normal((_CLUSTERS, n_features)) * np.sqrt(half)
    shares = np.random.default_rng(6).dirichlet(np.full(_CLUSTERS, 0.5))
    scales = np.exp(0.7 * np.random.default_rng(7).standard_normal(_CLUSTERS))

    def around(labels: np.ndarray, generator: Generator) -> np.ndarray:
        return centres[labels] + 0.5 * _normal(len(labels), generator, half)

    def at_random(n_rows: int, generator: Generator) -> np.ndarray:
        return around(generator.integers(0, _CLUSTERS, n_rows), generator)

    def ordered(n_rows: int, generator: Generator) -> np.ndarray:
        return around(np.sort(generator.integers(0, _CLUSTERS, n_rows)), generator)

    def in_runs(n_rows: int, generator: Generator) -> np.ndarray:
        return around(_repeated(n_rows, run_rows, lambda count: generator.integers(0, _CLUSTERS, count)), generator)

    def uneven(n_rows: int, generator: Generator) -> np.ndarray:
        labels = generator.choice(_CLUSTERS, n_rows, p=shares)
        return around(labels, generator) * scales[labels, None]

    mean = centres.mean(axis=0)
    covariance = centres.T @ centres / _CLUSTERS - np.outer(mean, mean) + 0.25 * np.diag(half)
    weights = shares * scales**2
    uneven_mean = (shares * scales) @ centres
    uneven_moment = (centres.T * weights) @ centres + 0.25 * weights.sum() * np.diag(half)
    uneven_covariance = uneven_moment - np.outer(uneven_mean, uneven_mean)
    return [
        Population("clusters, random order", at_random, covariance, mean),
        Population("clusters of uneven size and scale", uneven, uneven_covariance, uneven_mean),
        Population("clusters, sorted", ordered, covariance, mean),
        Population(f"clusters, in runs of {run_rows} rows", in_runs, covariance, mean, is_independent=False),
    ]


def _copies(n_features: int) -> list[Population]:
    """Return kinds in which rows are there several times."""
    half, zero = _half(n_features), np.zeros(n_features)

    def runs(n_rows: int, generator: Generator, copies: int) -> np.ndarray:
        start = int(generator.integers(copies))
        return np.repeat(_normal(n_rows // copies + 2, generator, half), copies, axis=0)[start : start + n_rows]

    def scattered(n_rows: int, generator: Generator) -> np.ndarray:
        return np.repeat(_normal(-(-n_rows // 2), generator, half), 2, axis=0)[generator.permutation(n_rows)]

    kinds = {
        "runs of 4 copies": partial(runs, copies=4),
        "pairs of copies": partial(runs, copies=2),
        "every row twice, random order": scattered,
    }
    return [Population(name, draw, np.diag(half), zero, is_independent=False) for name, draw in kinds.items()]


def _other(n_features: int) -> list[Population]:
    half, zero, run_rows = _half(n_features), np.zeros(n_features), _run_rows(n_features)
    rotation = _rotation(n_features)
    moving = np.sqrt(half) * np.sin(np.arange(1, n_features + 1))
    ends = np.sqrt(half) * np.exp(0.5 * np.random.default_rng(8).standard_normal((2, n_features)))
    steep = _spectra(n_features)["s exponential"]

    def bounded(n_rows: int, generator: Generator) -> np.ndarray:
        return generator.uniform(-1.0, 1.0, (n_rows, n_features)) * np.sqrt(3.0 * half) @ rotation

    def drift(n_rows: int, generator: Generator) -> np.ndarray:
        time = _repeated(n_rows, run_rows, generator.random)[:, None]
        spread = np.sqrt((1.0 - time) * ends[0] ** 2 + time * ends[1] ** 2)
        return generator.standard_normal((n_rows, n_features)) * spread + 2.0 * (time - 0.5) * moving

    def two_sources(n_rows: int, generator: Generator) -> np.ndarray:
        is_second = generator.random((n_rows, 1)) < 0.3
        first, second = (_normal(n_rows, generator, variances) for variances in (half, steep))
        return np.where(is_second, 3.0 * second @ rotation, first)

    def unit(n_rows: int, generator: Generator) -> np.ndarray:
        rows = _normal(n_rows, generator, half)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    drifting = 0.5 * np.diag(ends[0] ** 2 + ends[1] ** 2) + np.outer(moving, moving) / 3.0
    mixed = 0.7 * np.diag(half) + 2.7 * rotation.T @ np.diag(steep) @ rotation
    return [
        Population("bounded", bounded, rotation.T @ np.diag(half) @ rotation, zero),
        Population(f"drifting, in runs of {run_rows} rows", drift, drifting, zero, is_independent=False),
        Population("two sources", two_sources, mixed, zero),
        Population("unit rows", unit, np.diag(unit_variances(half)), zero),
    ]


def unit_variances(variances: np.ndarray) -> np.ndarray:
    r"""Return the variances of Gaussian rows divided by their lengths.

    E x_k^2 / sum x_j^2 = v_k times the integral over t > 0 of (1 + 2 v_k t)^-1 prod (1 + 2 v_j t)^-1/2, by the
    trapezoidal rule in log t, which converges faster than any power.
    """
    t = np.exp(np.linspace(-40.0, 40.0, 1601))
    growth = np.log1p(2.0 * np.multiply.outer(t, variances))
    density = np.exp(-0.5 * growth.sum(axis=1, keepdims=True) - growth) * t[:, None]
    shares = variances * density.sum(axis=0) * 0.05
    assert abs(shares.sum() - 1.0) < 1e-9
    return shares
