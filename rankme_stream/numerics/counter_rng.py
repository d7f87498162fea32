"""Random numbers from a counter-based generator: they depend on a seed and a counter, never on the order of draws."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rankme_stream.numerics.dtypes import Array, FloatArray


def normal(shape: tuple[int, ...], *, seed: int, counter: int) -> FloatArray:
    """Return standard normal numbers for a counter, a non-negative integer below 2^64."""
    return _generator(seed, counter).standard_normal(shape)


def signs(shape: tuple[int, ...], *, seed: int, counter: int) -> FloatArray:
    """Return -1 and 1, each with probability 1/2, for a counter; the same on every machine, digit for digit."""
    drawn = _generator(seed, counter).integers(0, 2, size=shape, dtype=np.int8)
    return np.where(drawn, 1.0, -1.0)


def integers(shape: tuple[int, ...], below: int, *, seed: int, counter: int) -> Array:
    """Return uniform integers in [0, below) for a counter; the same on every machine."""
    return _generator(seed, counter).integers(0, below, size=shape)


def uniform(*, seed: int, counter: int) -> float:
    """Return one number in [0, 1) for a counter."""
    return float(_generator(seed, counter).random())


def uniforms(n: int, *, seed: int, counter: int) -> FloatArray:
    """Return ``n`` numbers in [0, 1) for a counter."""
    return _generator(seed, counter).random(n)


def distinct(n: int, *, seed: int) -> Iterator[int]:
    """Yield the integers below ``n`` in random order, each once, drawn only as far as the caller iterates."""
    generator = _generator(seed, 0)
    seen: set[int] = set()
    while len(seen) < n:
        for number in generator.integers(n, size=256).tolist():
            if number not in seen:
                seen.add(number)
                yield number


def _generator(seed: int, counter: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, counter], dtype=np.uint64)))
