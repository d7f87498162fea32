"""Foldings of a row sketch, from which the bias and the error of a number are estimated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rankme_stream.accumulators.row_sketch import signed_runs
from rankme_stream.numerics import counter_rng
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.spectra.extrapolation import FOLDING_PAIRS

ROWS_A_SKETCH_ROW = 4  # rows of equal length per sketch row that its interval needs
_FIRST_COUNTER = 2**63  # first counter of the signs of foldings; signs of rows have counters below it
_SHIFT_COUNTER = _FIRST_COUNTER + 2**32
# The columns are orthogonal, so products of rows of two different parts cancel over the four patterns.
_PATTERNS = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [1.0, -1.0, -1.0, 1.0]])


def meetings(energies: FloatArray, weight: float, seed: int) -> tuple[float, float, float]:
    """Return the share of pairs of rows, by energy, that meet in the sketch, in its foldings in two (mean) and in four.

    Parameters
    ----------
    energies
        Sum of |z|^2 over the rows z in each row of the sketch.
    weight
        Root of the sum of |z|^4 over all rows.
    """
    shares = energies / float(energies.sum())
    half, alone = shares.size // 2, (weight / float(energies.sum())) ** 2

    def met(folded: FloatArray) -> float:
        return math.fsum((folded**2).tolist()) - alone

    two = [met(shares[:half] + np.roll(shares[half:], -shift)) for shift in _shifts(shares.size, seed)]
    return met(shares), math.fsum(two) / len(two), met(shares.reshape(4, -1).sum(axis=0))


def folded(
    sketch: Any, device: Device, seed: int, solve: Callable[[Any], FloatArray]
) -> tuple[tuple[tuple[FloatArray, FloatArray], ...], tuple[FloatArray, ...]]:
    """Return ``solve`` of foldings in two, in pairs with opposite signs, and of foldings in four."""
    rows = sketch.shape[0]
    half, quarter = rows // 2, rows // 4
    halves = []
    for pair, shift in enumerate(_shifts(rows, seed)):
        signs = device.upload(counter_rng.signs((half, 1), seed=seed, counter=_FIRST_COUNTER + pair))
        first = sketch[:half, :]
        second = device.xp.concat([sketch[half + shift :, :], sketch[half : half + shift, :]]) * signs
        halves.append((solve(first + second), solve(first - second)))
    signs = device.upload(counter_rng.signs((rows, 1), seed=seed, counter=_FIRST_COUNTER + FOLDING_PAIRS))
    signed = sketch * signs
    parts = [signed[quarter * k : quarter * (k + 1), :] for k in range(4)]
    quarters = []
    for pattern in _PATTERNS.tolist():
        total = parts[0] * pattern[0]
        for sign, part in zip(pattern[1:], parts[1:], strict=True):
            total += sign * part
        quarters.append(solve(total))
    return tuple(halves), tuple(quarters)


def _shifts(rows: int, seed: int) -> list[int]:
    """Return the cyclic shift of the second half in each pair, such that no two rows of one run are added."""
    run, half = signed_runs.run_rows(rows), rows // 2
    if half < 3 * run:  # the sketch is too small for any interval
        return [0] * FOLDING_PAIRS
    drawn = counter_rng.integers((FOLDING_PAIRS,), half - 2 * run, seed=seed, counter=_SHIFT_COUNTER)
    return [run + int(shift) for shift in drawn]
