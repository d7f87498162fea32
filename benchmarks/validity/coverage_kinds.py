"""The kinds of dumps that `benchmarks coverage` samples: ordinary ones, wide ones, and those hard to sample."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import zarr

from benchmarks.validity import random_dumps
from benchmarks.validity.hard_dumps import Draw, RareUnits, hard_dumps
from rankme_stream.spectra import metrics

FIRST_LOOK = 0.9  # tolerance that every interval meets: the sample ends at the first look that states one
TIGHT = 5e-3
STATED_SHARE = 0.01  # of units unlike all others, which a sample is designed to find; smaller shares are not judged
_WIDEST = 768  # features


@dataclass(frozen=True)
class Kind:
    """Dumps of one kind.

    Attributes
    ----------
    name, draw
        Name, and function that returns the rows for a seed.
    population
        RankMe of infinitely many rows, where known.
    share
        Share of the seeds that is drawn.
    tolerances
        Tolerances that the samples are asked for, descending.
    is_hard
        Whether the kind is one of those that are hard to sample.
    """

    name: str
    draw: Draw = field(repr=False)
    population: float | None = None
    share: float = 1.0
    tolerances: tuple[float, ...] = (FIRST_LOOK, 0.01, TIGHT)
    is_hard: bool = False

    @property
    def is_judged(self) -> bool:
        """Whether intervals have to hold: no sample promises to find rare units of a smaller share than stated."""
        return not isinstance(self.draw, RareUnits) or self.draw.share >= STATED_SHARE


def hard_kinds(n_rows: int) -> list[Kind]:
    """Return the kinds of dumps that are hard to sample."""
    return [Kind(name, draw, tolerances=(FIRST_LOOK, TIGHT), is_hard=True) for name, draw in hard_dumps(n_rows).items()]


def wide_kinds(n_features: int) -> list[Kind]:
    """Return kinds of dumps with wide rows, for a tenth of the seeds."""
    n_rows, half = 160 * n_features, np.arange(1, n_features + 1, dtype=np.float32) ** -0.5
    return [
        Kind(f"Gaussian, {n_features} features", random_dumps.gaussian(n_rows, half), _rankme(half), 0.1),
        Kind(
            f"clusters, sorted, {n_features} features", random_dumps.clusters(n_rows, half, is_sorted=True), share=0.1
        ),
    ]


def widest_kinds() -> list[Kind]:
    """Return kinds of dumps whose rows are so wide that the second-order bias exceeds the random error."""
    n_rows, k = 40 * _WIDEST, np.arange(1, _WIDEST + 1, dtype=np.float32)
    shapes = {"flat": k**0, "s ~ k^-1/4": k**-0.25, "s ~ k^-1/2": k**-0.5}
    return [
        Kind(f"Gaussian, {name}, {_WIDEST} features", random_dumps.gaussian(n_rows, shape), _rankme(shape), 0.1)
        for name, shape in shapes.items()
    ]


def ordinary_kinds(n_features: int, n_rows: int, dump: str | None) -> list[Kind]:
    """Return the ordinary kinds of dumps."""
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
