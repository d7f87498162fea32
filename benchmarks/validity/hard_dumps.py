"""Dumps that are hard to sample: rare units, heavy tails, copies, sorted and periodic rows.

Each kind has 40,000 rows of 32 features. What differs from unit to unit does so in runs of 16 rows, which the dump does
not mark and a sample does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator

N_ROWS, N_FEATURES = 40_000, 32
_UNIT = 16  # rows
_COLUMN = np.arange(N_FEATURES)

Draw = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class RareUnits:
    """Rows in half of the directions, but for units that fill all of them: exactly a share of the units, at random.

    Attributes
    ----------
    share
        Share of the units that is rare.
    scale
        Standard deviation of the rare units; the other rows have 1 in half of the features and 0.01 in the rest.
    first_seed
        Number added to each seed.
    n_rows
        Number of rows.
    """

    share: float
    scale: float = 1.0
    first_seed: int = 0
    n_rows: int = N_ROWS

    def __call__(self, seed: int) -> np.ndarray:
        """Return the rows for a seed, shape (n_rows, 32)."""
        generator = np.random.default_rng([self.first_seed + seed, 0])
        rows = generator.standard_normal((self.n_rows, N_FEATURES))
        rows[:, N_FEATURES // 2 :] *= 1e-2
        rare = self.is_rare(seed)
        rows[rare] = self.scale * generator.standard_normal((int(rare.sum()), N_FEATURES))
        return rows

    def is_rare(self, seed: int) -> np.ndarray:
        """Return whether each row belongs to a rare unit, shape (n_rows,)."""
        n_units = self.n_rows // _UNIT
        generator = np.random.default_rng([self.first_seed + seed, 1])
        units = np.zeros(n_units, bool)
        units[generator.choice(n_units, round(self.share * n_units), replace=False)] = True
        return np.repeat(units, _UNIT)


@dataclass(frozen=True)
class _Drawn:
    """Rows that a function makes from a generator and Gaussian rows."""

    make: Callable[[Generator, np.ndarray], np.ndarray]
    n_rows: int

    def __call__(self, seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        return self.make(generator, generator.standard_normal((self.n_rows, N_FEATURES)))


def hard_dumps(n_rows: int = N_ROWS) -> dict[str, Draw]:
    """Return 41 kinds of dumps by name: functions that draw the rows for a seed.

    Those of 1 % rare units are there twice, with different seeds.
    """
    rare = {"rare units, 1 %": RareUnits(0.01, n_rows=n_rows)}
    rare["rare units, 1 %, other seeds"] = RareUnits(0.01, first_seed=1_000_000, n_rows=n_rows)
    rare |= {f"rare units, {percent:g} %": RareUnits(percent / 100, n_rows=n_rows) for percent in (0.2, 0.5, 2, 4)}
    rare["rare units, 3 %, three times as long"] = RareUnits(0.03, 3.0, n_rows=n_rows)
    makes = _long_tailed() | _unit_by_unit() | _copied() | _sorted() | _other()
    return {**rare, **{name: _Drawn(make, n_rows) for name, make in makes.items()}}


_Make = Callable[[Generator, np.ndarray], np.ndarray]


def _long_tailed() -> dict[str, _Make]:
    """Return kinds whose rows have lengths of a heavy-tailed distribution."""

    def student(generator: Generator, rows: np.ndarray, degrees: int) -> np.ndarray:
        return rows / np.sqrt(generator.chisquare(degrees, (len(rows), 1)) / degrees)

    def pareto(generator: Generator, rows: np.ndarray, index: float) -> np.ndarray:
        return rows * (generator.pareto(index, (len(rows), 1)) + 1)

    def lognormal(generator: Generator, rows: np.ndarray, spread: float) -> np.ndarray:
        return rows * np.exp(spread * generator.standard_normal((len(rows), 1)))

    def lognormal_units(generator: Generator, rows: np.ndarray, spread: float) -> np.ndarray:
        return rows * np.exp(spread * _of_units(generator, rows, 1))

    return {
        **{f"Pareto lengths, index {index:g}": partial(pareto, index=index) for index in (2.2, 3.0)},
        **{f"t with {degrees} degrees": partial(student, degrees=degrees) for degrees in (3, 4, 5, 6)},
        **{f"lognormal lengths, {spread:g}": partial(lognormal, spread=spread) for spread in (0.5, 1.0, 1.3)},
        **{
            f"lognormal lengths of units, {spread:g}": partial(lognormal_units, spread=spread)
            for spread in (0.3, 0.5, 0.7, 1.0, 1.3)
        },
    }


def _of_units(generator: Generator, rows: np.ndarray, n_features: int) -> np.ndarray:
    """Return Gaussian numbers, shape (n_rows, n_features), which all rows of a unit share."""
    return np.repeat(generator.standard_normal((len(rows) // _UNIT, n_features)), _UNIT, axis=0)


def _unit_by_unit() -> dict[str, _Make]:
    """Return kinds whose units differ in direction or scale."""

    def few_directions(generator: Generator, rows: np.ndarray) -> np.ndarray:
        is_active = generator.random((len(rows) // _UNIT, N_FEATURES)) < np.geomspace(0.5, 0.002, N_FEATURES)
        noise = 0.05 * generator.standard_normal(rows.shape)
        return 3 * rows * np.repeat(is_active, _UNIT, axis=0) + noise

    def one_direction(generator: Generator, rows: np.ndarray) -> np.ndarray:
        return 2 * _of_units(generator, rows, N_FEATURES) + 0.3 * rows

    def two_scales(generator: Generator, rows: np.ndarray) -> np.ndarray:
        scale = np.where(generator.random(len(rows) // _UNIT) < 0.5, 1.0, 1e-2)
        return rows * np.repeat(scale, _UNIT)[:, None] * np.where(_COLUMN < 4, 1.0, 0.1)

    def long_units(_: Generator, rows: np.ndarray) -> np.ndarray:
        return rows * np.where(np.arange(len(rows)) // _UNIT % 16 == 0, 10.0, 1.0)[:, None]

    def other_directions(_: Generator, rows: np.ndarray) -> np.ndarray:
        is_other = np.arange(len(rows)) // _UNIT % 64 == 0
        return rows * np.where(_COLUMN < N_FEATURES // 2, 1.0, np.where(is_other, 3.0, 0.01)[:, None])

    return {
        "units of few directions each": few_directions,
        "units of one direction each": one_direction,
        "units of two scales": two_scales,
        "every 16th unit 10 times as long": long_units,
        "every 64th unit in other directions": other_directions,
    }


def _copied() -> dict[str, _Make]:
    """Return kinds with few distinct rows, or rows that are nearly copies of each other."""

    def unit_copies(generator: Generator, rows: np.ndarray) -> np.ndarray:
        return _of_units(generator, rows, N_FEATURES) + 1e-3 * rows

    def copies_of_4(generator: Generator, rows: np.ndarray) -> np.ndarray:
        return np.repeat(generator.standard_normal((len(rows) // 4, N_FEATURES)), 4, axis=0) + 1e-2 * rows

    def distinct(generator: Generator, rows: np.ndarray, count: int, power: float) -> np.ndarray:
        return generator.standard_normal((count, N_FEATURES))[_zipf(generator, len(rows), count, power)]

    return {
        "units of copies, noise 0.001": unit_copies,
        "runs of 4 copies, noise 0.01": copies_of_4,
        "100 distinct rows": partial(distinct, count=100, power=0.0),
        "40 distinct rows": partial(distinct, count=40, power=0.0),
        "2,000 distinct rows, Zipf": partial(distinct, count=2000, power=1.0),
    }


def _zipf(generator: Generator, n_rows: int, count: int, power: float) -> np.ndarray:
    """Return random numbers 0 to ``count`` - 1, of which number k has a probability ~ (k + 1)^-power."""
    weights = np.arange(1, count + 1) ** -power
    return generator.choice(count, n_rows, p=weights / weights.sum())


def _sorted() -> dict[str, _Make]:
    """Return kinds whose rows are sorted, or change from the first row to the last."""

    def classes(generator: Generator, rows: np.ndarray, *, count: int, power: float, noise: float) -> np.ndarray:
        centres = 1.5 * generator.standard_normal((count, N_FEATURES))
        return centres[np.sort(_zipf(generator, len(rows), count, power))] + noise * rows

    def one_hot(generator: Generator, rows: np.ndarray) -> np.ndarray:
        return np.eye(N_FEATURES)[np.sort(_zipf(generator, len(rows), N_FEATURES, 1.2))]

    def steepening(_: Generator, rows: np.ndarray) -> np.ndarray:
        time = np.arange(len(rows))[:, None] / len(rows)
        return rows * np.exp(-4 * time * _COLUMN / N_FEATURES)

    def collapsed(_: Generator, rows: np.ndarray) -> np.ndarray:
        start = int(0.7 * len(rows))
        return np.concatenate([rows[:start], np.repeat(rows[start:, :1], N_FEATURES, axis=1)])

    return {
        "200 classes, sorted": partial(classes, count=200, power=0.0, noise=0.3),
        "300 classes, Zipf, sorted": partial(classes, count=300, power=1.0, noise=0.2),
        "one-hot rows, Zipf, sorted": one_hot,
        "spectrum steepens": steepening,
        "last 30 % in one direction": collapsed,
    }


def _other() -> dict[str, _Make]:
    """Return kinds of independent rows with sparse or very uneven features."""

    def one_hot(generator: Generator, rows: np.ndarray) -> np.ndarray:
        return np.eye(N_FEATURES)[_zipf(generator, len(rows), N_FEATURES, 1.2)]

    def sparse(generator: Generator, rows: np.ndarray) -> np.ndarray:
        return rows * (generator.random(rows.shape) < 0.02)

    return {
        "one-hot rows, Zipf": one_hot,
        "2 % of the entries not zero": sparse,
        "max(Gaussian - 2, 0)": lambda _, rows: np.maximum(rows - 2, 0),
        "s ~ k^-2": lambda _, rows: rows * (_COLUMN + 1.0) ** -2,
        "one feature 100 times the others": lambda _, rows: rows * np.where(_COLUMN < 1, 100.0, 1.0),
    }
