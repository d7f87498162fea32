"""Largest ratios of rounding errors to their bounds, on matrices made for it; a part of ``benchmarks intervals``."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from flint import fmpq, fmpq_mat
from scipy.linalg import hadamard

from benchmarks.validity import ball_arithmetic, planted
from rankme_stream.accumulators.error_probes import SAFETY
from rankme_stream.numerics.devices import host
from rankme_stream.numerics.rounding import gamma
from rankme_stream.testing import with_ones

_U64, _U32 = 2.0**-53, 2.0**-24

# Rows whose rounding errors add up. Arguments: a generator, a shape, the unit roundoff of the products.
PILES: dict[str, Callable[[np.random.Generator, tuple[int, int], float], np.ndarray]] = {
    "one constant": lambda g, shape, u: np.full(shape, g.random() + 0.5),
    "constant columns": lambda g, shape, u: np.tile(g.random(shape[1]) + 0.5, (shape[0], 1)),
    "just above 1": lambda g, shape, u: np.full(shape, 1.0 + math.sqrt(u) * g.integers(1, 64) / 8),
    "ascending": lambda g, shape, u: np.sort(np.abs(g.standard_normal(shape)), axis=0),
    "descending": lambda g, shape, u: np.sort(np.abs(g.standard_normal(shape)), axis=0)[::-1],
    "huge row first": lambda g, shape, u: np.concatenate(
        [np.ones((1, shape[1])), np.full((shape[0] - 1, shape[1]), math.sqrt(u * (1 + 2.0**-9) / g.choice([1, 2, 4])))]
    ),
    "huge row first, panels of half an ulp": lambda g, shape, u: np.concatenate(
        [np.ones((1, shape[1])), np.full((shape[0] - 1, shape[1]), math.sqrt(u * (1 + 2.0**-9) / 1024))]
    ),
}


def _piled(seed: int, rows_of_panel: int, max_features: int, unit_roundoff: float) -> tuple[np.ndarray, str]:
    generator = np.random.default_rng(seed)
    name = list(PILES)[seed % len(PILES)]
    shape = (int(generator.integers(2, 5) * max(rows_of_panel, 256)), int(generator.integers(1, max_features + 1)))
    label = f"{name}, panels of {rows_of_panel}, {shape[0]:,} x {shape[1]}, seed {seed}"
    return np.ascontiguousarray(PILES[name](generator, shape, unit_roundoff)), label


def absorb(kind: str, rows: np.ndarray, rows_of_panel: int, parts: int = 1) -> Any:
    """Return an accumulator of the rows: parts filled panel by panel, then merged from left to right."""
    merged = None
    for edges in pairwise(np.linspace(0, len(rows), parts + 1, dtype=int).tolist()):
        accumulator = planted.KINDS[kind](rows.shape[1])
        for start in range(*edges, rows_of_panel):
            stop = min(start + rows_of_panel, edges[1])
            accumulator.update(with_ones(rows[start:stop]), start)
        merged = accumulator if merged is None else merged.merge(accumulator)
    return merged


def gram_ratio(rows: np.ndarray, rows_of_panel: int) -> float:
    """Return |G^ - G|_F over gamma tr, with the true Gram matrix G in fractions."""
    accumulator = absorb("gram float64", rows, rows_of_panel)
    n = rows.shape[1]
    entries = fmpq_mat(*rows.shape, [fmpq(*value.as_integer_ratio()) for value in rows.ravel().tolist()])
    gram = entries.transpose() * entries
    computed = accumulator._gram.lower()
    squares = trace = Fraction(0)
    for i in range(n):
        for j in range(i + 1):
            true = Fraction(int(gram[i, j].p), int(gram[i, j].q))
            squares += (Fraction(computed[1 + i, 1 + j]) - true) ** 2 * (1 if i == j else 2)
            trace += true if i == j else 0
    return math.sqrt(squares / trace**2) / gamma(accumulator.totals.chain)


def float32_ratio(rows: np.ndarray, rows_of_panel: int) -> float:
    """Return |G^ - G|_F beyond the float64 share, over the safety factor times the estimate of the probes."""
    accumulator = absorb("gram float32", rows, rows_of_panel)
    residual = accumulator.probes.residual(accumulator._gram, accumulator.totals)
    wide = rows.astype(np.longdouble)
    difference = np.tril(accumulator._gram.lower()[1:, 1:] - wide.T @ wide)
    squares = 2 * np.square(difference).sum() - np.square(np.diagonal(difference)).sum()
    beyond = float(np.sqrt(squares)) - gamma(accumulator.totals.chain) * float(np.square(rows).sum())
    return beyond / (SAFETY * residual.estimate) if beyond > 0.0 else 0.0


def eigenvalue_ratio(seed: int, max_features: int) -> tuple[float, str]:
    """Return the error of the eigenvalues of an exact Gram matrix over the margin (D + 32) u l_1."""
    generator = np.random.default_rng(seed)
    family = str(generator.choice(list(planted.FAMILIES)))
    n = int(generator.integers(2, max_features + 1))
    rows = planted.FAMILIES[family](generator, 4 * n, n)
    rows = np.rint(rows * (2.0**21 / np.abs(rows).max()))  # squares and sums of 192 rows stay below 2^53
    true = [number**2 for number in ball_arithmetic.truth(rows).singular_values]
    return _eigenvalue_ratio(rows.T @ rows, true), f"{family}, D = {n}, seed {seed}"


def _eigenvalue_ratio(gram: np.ndarray, true: Any) -> float:
    values = host.eigenvalues(gram)
    error = max(
        ball_arithmetic.inside_error(number, value) for number, value in zip(true, values.tolist(), strict=True)
    )
    return error / ((len(gram) + 32) * _U64 * float(values[0]))


def tsqr_ratios(accumulator: Any, raw: Any, centered: Any) -> dict[str, float]:
    """Return the largest error of a singular value over the error allowed, and over the worst case."""
    spectrum = accumulator.spectrum(unit_roundoff=_U64)
    ratios = {"allowed": 0.0, "worst": 0.0}
    for side, true in ((spectrum.raw, raw), (spectrum.centered, centered)):
        errors = [ball_arithmetic.inside_error(t, value) for t, value in zip(true, side.values.tolist(), strict=True)]
        allowed, worst = (bounds.upper[0] - side.values[0] for bounds in (side.consistent, side.worst_case))
        for name, bound in (("allowed", allowed), ("worst", worst)):
            ratios[name] = max(ratios[name], max(errors) / bound if max(errors) else 0.0)
    return ratios


def known_spectrum(n: int, copies: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return copies of the integer matrix H diag(d) H, and its exact singular values, raw and centred.

    H is a Hadamard matrix, and d are powers of two. The mean row is d_1 times the first direction, so that centring
    takes away d_1 and nothing else.
    """
    generator = np.random.default_rng(seed)
    h = hadamard(n).astype(np.float64)
    d = np.exp2(generator.permutation(np.sort(generator.integers(0, 38, n))))
    values, others = (np.sort(n * math.sqrt(copies) * part)[::-1] for part in (d, np.where(np.arange(n), d, 0.0)))
    return np.tile((h * d) @ h, (copies, 1)), values, others


def largest_ratios(name: str, quick: bool) -> list[dict[str, Any]]:
    """Return the rows of the table for one bound: number of inputs, largest ratio, and the input that gave it."""
    return {"gram": _sharp_gram, "solver": _sharp_solver, "tsqr": _sharp_tsqr, "float32": _sharp_float32}[name](quick)


def _largest(bound: str, tried: list[tuple[float, str]]) -> dict[str, Any]:
    ratio, where = max(tried)
    return {"bound": bound, "tried": len(tried), "ratio": ratio, "where": where}


def _sharp_gram(quick: bool) -> list[dict[str, Any]]:
    lines = []
    for panel in (1, 1024):
        tried = []
        for seed in range(14 if quick else 210):
            rows, label = _piled(seed, panel, 2 if quick else 6, _U64)
            tried.append((gram_ratio(rows, panel), label))
        lines.append(_largest(f"float64 Gram: error over gamma tr, panels of {panel:,}", tried))
    return lines


def _sharp_solver(quick: bool) -> list[dict[str, Any]]:
    tried = [eigenvalue_ratio(seed, 12 if quick else 48) for seed in range(20 if quick else 250)]
    large = []
    for n in (64,) if quick else (256, 512, 1024, 2048):
        for seed in range(3):
            symmetric, values, _ = known_spectrum(n, 1, seed)
            large.append((_eigenvalue_ratio(symmetric, values), f"D = {n}, seed {seed}"))
    return [
        _largest("eigensolver: error over (D + 32) u l_1, D up to 48", tried),
        _largest("eigensolver: the same, D up to 2,048, eigenvalues powers of two", large),
    ]


def _sharp_tsqr(quick: bool) -> list[dict[str, Any]]:
    groups: dict[str, list[tuple[dict[str, float], str]]] = {"matrices as for the coverage": []}
    for seed in range(15 if quick else 600):
        rows, made = planted.draw(seed, max_features=16)
        if rows.any():
            truth = ball_arithmetic.truth(rows)
            accumulator = absorb("tsqr float64", rows, 1 + seed % 40, parts=1 + seed % 3)
            ratios = tsqr_ratios(accumulator, truth.singular_values, truth.centered)
            groups["matrices as for the coverage"].append((ratios, f"{made['family']}, seed {seed}"))
    large = groups["D up to 1,024, singular values powers of two"] = []
    for n in (32,) if quick else (64, 256, 1024):
        for seed in range(3):
            rows, raw, centered = known_spectrum(n, 16, seed)
            for panel in (n // 8, 2048):
                ratios = tsqr_ratios(absorb("tsqr float64", rows, panel, parts=2), raw, centered)
                large.append((ratios, f"D = {n}, panels of {panel}, seed {seed}"))
    for panel, steps in (
        (512, "16 steps"),
        (2048, "4 steps"),
        (1, "60 steps"),
        (1, "1,024 steps"),
    ):
        name = f"piling up, panels of {panel:,}, at most {steps}"
        tried = groups[name] = []
        for seed in range(7 if quick else 42):
            rows, label = _piled(seed, panel, 3, _U64)
            rows = rows[:60] if steps == "60 steps" else rows[: 4 * 2048]
            truth = ball_arithmetic.truth(rows)
            ratios = tsqr_ratios(absorb("tsqr float64", rows, panel), truth.singular_values, truth.centered)
            tried.append((ratios, label))
    alike = groups["rows all alike, panels of 512 or 2,048, D up to 768"] = []
    for n in (2, 64) if quick else (1, 2, 8, 64, 256, 768):
        for seed in range(2 if quick or n > 64 else 8):
            row = np.random.default_rng(seed).standard_normal(n)
            for panel in (512, 2048):
                rows = np.tile(row, (panel * (2 if quick else 8), 1))
                raw = np.where(np.arange(n) == 0, math.sqrt(len(rows) * math.fsum(row * row)), 0.0)
                ratios = tsqr_ratios(absorb("tsqr float64", rows, panel), raw, np.zeros(n))
                alike.append((ratios, f"D = {n}, panels of {panel:,}, seed {seed}"))
    bounds = {"allowed": "the error allowed", "worst": "the worst case"}
    return [
        _largest(f"tsqr, {group}: error over {bound}", [(ratios[key], where) for ratios, where in tried])
        for group, tried in groups.items()
        for key, bound in bounds.items()
    ]


def _sharp_float32(quick: bool) -> list[dict[str, Any]]:
    drawn, piled = [], []
    for seed in range(20 if quick else 400):
        rows, made = planted.draw(seed, max_features=24 if quick else 64)
        if abs(made["scale"]) < 300:
            drawn.append((float32_ratio(rows, 1024), f"{made['family']}, {made['storage']}, seed {seed}"))
    for panel in (1, 1024):
        for seed in range(7 if quick else 140):
            rows, label = _piled(seed, panel, 24 if quick else 128, _U32)
            piled.append((float32_ratio(rows, panel), label))
    title = "float32 Gram: error over 4 times the estimate"
    return [_largest(f"{title}, matrices as for the coverage", drawn), _largest(f"{title}, piling up", piled)]
