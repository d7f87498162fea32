"""Held-out units: the forms of rows that are not in the Gram, from one eigendecomposition, and what they are for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankme_stream.spectra import contour
from rankme_stream.spectra.contour import NoEstimateError
from rankme_stream.spectra.held_out_units import HeldOut, RotatedRows, Unit, held_out_units

NONE = np.zeros(0, dtype=np.int64)


def rotated(rows: np.ndarray, kept: np.ndarray | None = None) -> RotatedRows:
    values, vectors = np.linalg.eigh(rows.T @ rows)
    return RotatedRows.rotate(values, vectors, len(rows), rows if kept is None else kept)


def units_of(n_rows: int, size: int) -> list[Unit]:
    return [Unit(np.arange(start, min(start + size, n_rows)), NONE) for start in range(0, n_rows, size)]


def held_out(rows: np.ndarray, size: int) -> HeldOut:
    return held_out_units(rotated(rows), units_of(len(rows), size))


def student_rows(n_rows: int, n_features: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    scale = np.arange(1, n_features + 1) ** -0.5
    rows = generator.standard_normal((n_rows, n_features)) * scale
    return rows * np.sqrt(5.0 / generator.chisquare(5, n_rows))[:, None]


def log_rankme(values: np.ndarray) -> float:
    p = np.sqrt(values) / np.sqrt(values).sum()
    return float(-(p * np.log(p)).sum())


def slow_contour(rows: np.ndarray, size: int) -> contour.Contour:
    """Traces with the resolvent of every Gram without a unit, and the derivative of w from its Fourier series."""
    n_rows, n_features = rows.shape
    values = np.linalg.eigvalsh(rows.T @ rows)
    scaled = rows / math.sqrt(values[-1])
    path = contour.path_around(values / values[-1], 0.02 * values[0] / values[-1], digits=60.0)
    form, trace = np.zeros((2, path.z.size), dtype=complex)
    starts = range(0, n_rows, size)
    for start in starts:
        unit, rest = scaled[start : start + size], np.delete(scaled, np.s_[start : start + size], axis=0)
        for i, z in enumerate(path.z):
            q = np.linalg.inv(rest.T @ rest / n_rows - z / n_rows * np.eye(n_features))
            form[i] += np.trace(unit @ q @ unit.T) / n_rows
            trace[i] += np.trace(q) / n_rows
    zm = path.z * trace / len(starts) / n_features
    w = path.z * form / n_rows / (n_features / n_rows * (1.0 + zm))

    def slope(f: np.ndarray) -> np.ndarray:
        whole = np.concatenate([f, f[::-1].conj()])
        order = np.fft.fftfreq(whole.size, 1.0 / whole.size)
        order[f.size] = 0.0
        return np.fft.ifft(1j * order * np.fft.fft(whole))[: f.size] * (math.pi / f.size) / path.step

    whole = contour.Path(path.z, path.step, zm, slope(zm), n_features)
    return contour.contour_of(whole, w, slope(w) / w)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_the_forms_equal_those_with_the_resolvents_themselves(size):
    rows = student_rows(22, 12)
    fast, slow = held_out(rows, size).contour, slow_contour(rows, size)
    assert slow.defect < 1e-9
    assert contour.log_rankme(fast) == pytest.approx(contour.log_rankme(slow), abs=1e-6)
    assert contour.log_entropy_rank(fast) == pytest.approx(contour.log_entropy_rank(slow), abs=1e-6)


def test_leverages_are_those_of_the_gram_without_the_unit_and_its_copies():
    rows = student_rows(40, 12)
    units = units_of(40, 4)
    units[2] = Unit(units[2].own, np.array([0, 39]))
    found = held_out_units(rotated(rows), units)
    for unit in units:
        rest = np.delete(rows, np.concatenate([unit.own, unit.copies]), axis=0)
        expected = np.einsum("ij,jk,ik->i", rows[unit.own], np.linalg.inv(rest.T @ rest), rows[unit.own])
        np.testing.assert_allclose(found.leverages[unit.own], expected, rtol=1e-9)
    mean = found.leverages.mean()
    assert found.equivalent_rows == pytest.approx(12 * (1.0 + mean) / mean, rel=1e-9)


def test_copies_of_other_units_left_out_count_as_copies_in_the_unit():
    once = student_rows(60, 16)
    twice = np.concatenate([once, once])
    together = [Unit(np.array([i, 60 + i]), NONE) for i in range(60)]
    apart = [Unit(np.array([i]), np.array([(i + 60) % 120])) for i in range(120)]
    first, second = held_out_units(rotated(twice), together), held_out_units(rotated(twice), apart)
    np.testing.assert_allclose(first.contour.w, second.contour.w, rtol=1e-10)
    np.testing.assert_allclose(first.contour.weight, second.contour.weight, rtol=1e-8)
    np.testing.assert_allclose(first.leverages, second.leverages, rtol=1e-10)
    true = contour.log_rankme(held_out(once, 1).contour)
    assert contour.log_rankme(first.contour) == pytest.approx(true, abs=0.03)
    assert contour.log_rankme(held_out(twice, 1).contour) < true - 0.05  # copies that stay hide what is missing


def test_zero_and_repeated_features_change_nothing():
    rows = student_rows(60, 16)
    wide = np.concatenate([rows, np.zeros((60, 5)), rows[:, :3]], axis=1)
    narrow = rows * np.where(np.arange(16) < 3, math.sqrt(2.0), 1.0)
    first, second = held_out(wide, 2), held_out(narrow, 2)
    assert first.contour.n_values == 16
    assert contour.log_rankme(first.contour) == pytest.approx(contour.log_rankme(second.contour), abs=1e-8)


def test_the_first_path_passes_left_of_the_eigenvalues_without_a_unit():
    for seed in range(10):
        found = held_out(student_rows(60, 40, seed), 1).contour  # at 1.5 rows a feature they go down to a tenth
        assert found.defect < 1e-6
        assert found.w.size <= 24  # a second path has twice the points


def test_part_of_the_units_measures_what_all_do():
    rows = student_rows(400, 16)
    part = held_out_units(rotated(rows, rows[:160]), units_of(160, 4))
    assert contour.log_rankme(part.contour) == pytest.approx(contour.log_rankme(held_out(rows, 4).contour), abs=0.01)


@pytest.mark.parametrize("size", [1, 4])
def test_the_population_is_estimated_without_bias_where_lengths_vary(size):
    truth = log_rankme(1.0 / np.arange(1, 49))
    errors, plain = [], []
    for seed in range(20):
        rows = student_rows(96, 48, seed)
        errors.append(contour.log_rankme(held_out(rows, size).contour) - truth)
        plain.append(log_rankme(np.linalg.eigvalsh(rows.T @ rows)) - truth)
    assert np.mean(plain) < -0.1
    assert abs(np.mean(errors)) < 0.015


def test_what_allows_no_estimate_says_why():
    rows = student_rows(40, 16)
    with pytest.raises(NoEstimateError, match=r"fewer than 1\.25 rows"):
        rotated(rows[:19])
    with pytest.raises(NoEstimateError, match="all zero or not finite"):
        rotated(np.zeros((40, 16)))
    with pytest.raises(NoEstimateError, match="do not span"):
        held_out_units(rotated(rows), [Unit(np.arange(30), NONE), Unit(np.arange(30, 40), NONE)])
    lone = np.concatenate([np.pad(rows, [(0, 0), (0, 1)]), np.eye(17)[16:]])  # one row has a direction to itself
    with pytest.raises(NoEstimateError, match="do not span"):
        held_out(lone, 1)
    with pytest.raises(NoEstimateError, match="like more than 64 others"):
        held_out_units(rotated(rows), [Unit(np.array([0]), np.arange(65) % 40)])
