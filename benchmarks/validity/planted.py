"""Small matrices with every trait that could break an interval, and the package's intervals for them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np

from rankme_stream.accumulators.float32_gram import Float32GramAccumulator
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.passes.state.row_norms import rows_error, scale_rows
from rankme_stream.spectra import estimates
from rankme_stream.testing import matrix_with_spectrum, with_ones

KINDS = {"gram float64": GramAccumulator, "tsqr float64": TsqrAccumulator, "gram float32": Float32GramAccumulator}
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
STORAGE = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}


def _planted(spectrum: Callable[[int], np.ndarray]) -> Callable[..., np.ndarray]:
    def make(generator: np.random.Generator, n_rows: int, n_features: int) -> np.ndarray:
        size = min(n_rows, n_features)
        seed = int(generator.integers(2**32))
        return matrix_with_spectrum(spectrum(size), n_rows=n_rows, n_features=n_features, seed=seed)

    return make


def _near_duplicates(generator: np.random.Generator, n_rows: int, n_features: int) -> np.ndarray:
    base = generator.standard_normal((3, n_features))
    return base[generator.integers(3, size=n_rows)] + 1e-6 * generator.standard_normal((n_rows, n_features))


def _null_directions(generator: np.random.Generator, n_rows: int, n_features: int) -> np.ndarray:
    rows = generator.integers(-8, 9, (n_rows, n_features)).astype(np.float64)
    rows[:, -1] = rows[:, 0]  # exact in every storage
    rows[:, n_features // 2] = 0.0
    return rows


def _large_mean(generator: np.random.Generator, n_rows: int, n_features: int) -> np.ndarray:
    return 100.0 + generator.standard_normal((n_rows, n_features))


def _zero_rows(generator: np.random.Generator, n_rows: int, n_features: int) -> np.ndarray:
    rows = generator.standard_normal((n_rows, n_features))
    rows[generator.random(n_rows) < 0.3] = 0.0
    return rows


def _heavy_rows(generator: np.random.Generator, n_rows: int, n_features: int) -> np.ndarray:
    return generator.standard_normal((n_rows, n_features)) * np.exp(2 * generator.standard_normal((n_rows, 1)))


FAMILIES: dict[str, Callable[..., np.ndarray]] = {
    "gaussian": lambda generator, n_rows, n_features: generator.standard_normal((n_rows, n_features)),
    "flat": _planted(np.ones),
    "k^-1/2": _planted(lambda m: np.arange(1, m + 1) ** -0.5),
    "k^-1": _planted(lambda m: 1.0 / np.arange(1, m + 1)),
    "k^-2": _planted(lambda m: np.arange(1, m + 1) ** -2.0),
    "geometric": _planted(lambda m: 10.0 ** (-16.0 * np.arange(m) / max(1, m - 1))),
    "rank-deficient": _planted(lambda m: (np.arange(m) < max(1, m // 3)).astype(np.float64)),
    "one giant direction": _planted(lambda m: np.where(np.arange(m) == 0, 1e6, 1.0)),
    "near-duplicates": _near_duplicates,
    "exact null directions": _null_directions,
    "mean 100 x the spread": _large_mean,
    "rows of zeros": _zero_rows,
    "heavy-tailed rows": _heavy_rows,
}
SCALES = {"float16": (0,), "bfloat16": (0, 30, -30), "float32": (0, 40, -40), "float64": (0, 300, -300, -530)}


def draw(seed: int, *, max_features: int = 16) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a matrix in float64 with exactly the values of its storage type, and how it was made.

    Shapes run from 1 x 1 to 40 ``max_features`` rows; a fifth of them have at most one row more than features.
    """
    generator = np.random.default_rng(seed)
    n_features = int(generator.integers(1, max_features + 1))
    n_rows = int(generator.integers(1, n_features + 2)) if generator.random() < 0.2 else int(
        generator.integers(n_features, 40 * n_features + 2)
    )  # fmt: skip
    family = str(generator.choice(list(FAMILIES)))
    storage = str(generator.choice(list(STORAGE)))
    scale = int(generator.choice(SCALES[storage]))
    rows = FAMILIES[family](generator, n_rows, n_features) * 2.0**scale
    with np.errstate(over="ignore", under="ignore"):
        stored = rows.astype(STORAGE[storage]).astype(np.float64)
    stored = np.nan_to_num(stored, posinf=1.0, neginf=-1.0)
    return stored, {"seed": seed, "family": family, "storage": storage, "scale": scale, "shape": [n_rows, n_features]}


def intervals_of(
    rows: np.ndarray, kind: str, *, storage: str, seed: int = 0
) -> dict[str, dict[str, estimates.Estimate]]:
    """Return every estimate of a matrix by one kind of accumulator, with random panels and merges.

    The result has the keys ``raw``, ``presets`` and ``unit``; ``unit`` is empty where every row is zero.
    """
    generator = np.random.default_rng(seed)
    make, (n_rows, n_features) = KINDS[kind], rows.shape
    cuts = np.unique(generator.integers(0, n_rows + 1, generator.integers(0, 6)))
    edges = [0, *(int(cut) for cut in cuts if 0 < cut < n_rows), n_rows]
    parts: list[dict[str, Any]] = []
    for start, stop in pairwise(edges):
        if not parts or generator.random() < 0.5:
            parts.append({"raw": make(n_features), "unit": make(n_features, rows_error=rows_error(n_features))})
        panel = with_ones(rows[start:stop])
        parts[-1]["raw"].update(panel, start)
        unit = np.empty_like(panel)
        scale_rows(panel, unit)
        parts[-1]["unit"].update(unit, start)
    while len(parts) > 1:
        right = parts.pop()
        parts[-1] = {key: left.merge(right[key]) for key, left in parts[-1].items()}
    raw, unit = (parts[0][key].spectrum(unit_roundoff=ROUNDOFF[storage]) for key in ("raw", "unit"))
    return {
        "raw": estimates.estimate_all(raw),
        "presets": estimates.estimate_presets(raw),
        "unit": estimates.estimate_normalized(unit),
    }
