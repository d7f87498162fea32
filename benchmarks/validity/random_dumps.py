"""Random dumps of many kinds: functions that draw the rows of one kind for a seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import rankme_stream

BUNDLED = Path(rankme_stream.__file__).parent / "cli" / "data" / "minilm-docstrings-4096.zarr"


def gaussian(n_rows: int, spectrum: np.ndarray, dtype: str = "float32") -> Callable[[int], np.ndarray]:
    """Return a function that draws Gaussian rows whose features have the spectrum as standard deviations."""

    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        return (generator.standard_normal((n_rows, spectrum.size), dtype=np.float32) * spectrum).astype(dtype)

    return draw


def heavy_tailed(n_rows: int, spectrum: np.ndarray) -> Callable[[int], np.ndarray]:
    """Return a function that draws rows of a multivariate t distribution with 6 degrees of freedom."""

    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        rows = generator.standard_normal((n_rows, spectrum.size)) * spectrum
        return (rows / np.sqrt(generator.chisquare(6, size=(n_rows, 1)) / 6)).astype(np.float32)

    return draw


def clusters(n_rows: int, spectrum: np.ndarray, *, is_sorted: bool, count: int = 50) -> Callable[[int], np.ndarray]:
    """Return a function that draws rows around the centres of clusters of uneven size."""

    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        centres = 1.5 * generator.standard_normal((count, spectrum.size)) * spectrum
        label = generator.choice(count, size=n_rows, p=generator.dirichlet(np.full(count, 3.0)))
        if is_sorted:
            label.sort()
        return (centres[label] + generator.standard_normal((n_rows, spectrum.size)) * spectrum).astype(np.float32)

    return draw


def near_duplicates(n_rows: int, spectrum: np.ndarray, copies: int = 4) -> Callable[[int], np.ndarray]:
    """Return a function that draws runs of rows that differ by one hundredth."""

    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        rows = np.repeat(generator.standard_normal((-(-n_rows // copies), spectrum.size)), copies, axis=0)[:n_rows]
        return ((rows + 0.01 * generator.standard_normal(rows.shape)) * spectrum).astype(np.float32)

    return draw


def drifting(n_rows: int, spectrum: np.ndarray) -> Callable[[int], np.ndarray]:
    """Return a function that draws rows whose mean moves and whose spectrum steepens from the first row to the last."""

    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        time = np.linspace(0.0, 1.0, n_rows)[:, None]
        rows = generator.standard_normal((n_rows, spectrum.size)) * spectrum ** (1.0 + time)
        return (rows + np.sin(3.0 * time + np.arange(spectrum.size)) * spectrum).astype(np.float32)

    return draw


def reordered(rows: np.ndarray, order: np.ndarray | None) -> Callable[[int], np.ndarray]:
    """Return a function that gives rows in one order, or in a random order for each seed where the order is None."""

    def draw(seed: int) -> np.ndarray:
        return rows[np.random.default_rng(seed).permutation(len(rows)) if order is None else order]

    return draw
