"""The constants of the bounds derived again, and the widths that they give."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.accumulators.float32_gram import Float32GramAccumulator
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.qr_error import step_error
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics.symmetric import Triangle
from rankme_stream.passes.state.row_norms import rows_error, scale_rows
from rankme_stream.testing import matrix_with_spectrum, with_ones

U = Fraction(1, 2**53)


def absorbed(kind: type, rows: np.ndarray, panel_rows: int = 64, **options):
    accumulator = kind(rows.shape[1], **options)
    for start in range(0, len(rows), panel_rows):
        accumulator.update(with_ones(rows[start : start + panel_rows]), start)
    return accumulator


def error_of_squares(box) -> float:
    """Return how far a consistent set reaches from the middle of its largest squared value."""
    return (float(box.upper[0]) ** 2 - float(box.lower[0]) ** 2) / 2


def test_the_gram_box_is_highams_bound_with_its_constants():
    rows = np.random.default_rng(0).standard_normal((1000, 20)) + 3.0
    spectrum = absorbed(GramAccumulator, rows).spectrum(unit_roundoff=2.0**-24)
    chain = 64 + (math.ceil(1000 / 64) - 1)  # a panel's sum, then one addition for each further panel
    gamma = chain * U / (1 - chain * U)
    trace = Fraction(float(np.square(rows).sum()))
    margin = (20 + 32) * U * Fraction(float(spectrum.singular_values[0] ** 2))
    centered_margin = (20 + 32) * U * Fraction(float(spectrum.centered_singular_values[0] ** 2))
    raw = gamma * trace / (1 - gamma) + margin
    centered = (3 * gamma + 4 * U) * trace / (1 - gamma) + centered_margin
    rounding = 4 * 2.0**-53 * float(trace)  # of the box's ends, and of squaring them here
    assert error_of_squares(spectrum.raw.consistent) == pytest.approx(float(raw), abs=rounding)
    assert error_of_squares(spectrum.centered.consistent) == pytest.approx(float(centered), abs=rounding)


def test_unit_rows_add_their_own_rounding_to_the_box():
    rows = np.random.default_rng(0).standard_normal((500, 20))
    panel = with_ones(rows)
    unit = np.empty_like(panel)
    scale_rows(panel, unit)
    widths = []
    for error in (0.0, rows_error(20)):
        accumulator = GramAccumulator(20, rows_error=error)
        accumulator.update(unit, 0)
        widths.append(error_of_squares(accumulator.spectrum(unit_roundoff=2.0**-53).raw.consistent))
    assert widths[1] - widths[0] == pytest.approx((20 + 8) * 2.0**-53 * 500, rel=0.05)  # (D + 8) u N
    norms = np.linalg.norm(unit[:, 1:].astype(np.longdouble), axis=1)
    assert np.abs(norms - 1).max() <= rows_error(20)


@pytest.mark.parametrize("scale", [2.0**-1030, 2.0**-600, 1.0, 2.0**479])
def test_rows_of_any_scale_become_unit_rows(scale):
    panel = with_ones(np.random.default_rng(1).standard_normal((50, 7)) * scale)
    panel[3, 1:] = 0.0
    unit = np.empty_like(panel)
    scale_rows(panel, unit)
    assert not unit[3].any()
    kept = np.delete(unit, 3, axis=0)
    tolerance = 1e-14 if scale > 2.0**-1000 else 1e-9  # rows of subnormal numbers hold few digits themselves
    assert np.linalg.norm(kept[:, 1:], axis=1) == pytest.approx(1.0, abs=tolerance)
    assert np.all(kept[:, 0] == 1.0)


def test_the_qr_boxes_are_the_stated_bounds():
    rows = np.random.default_rng(0).standard_normal((400, 12))
    spectrum = absorbed(TsqrAccumulator, rows, panel_rows=100).spectrum(unit_roundoff=2.0**-53)
    frobenius, largest = float(np.linalg.norm(rows)), float(spectrum.singular_values[0])
    margin = (12 + 32) * 2.0**-53 * largest
    practical = (2 * 100 + 16 * math.sqrt(4)) * 2.0**-53 * frobenius + margin
    # Higham's theorem 19.4, one step: (D + 1) reflectors of length rows + 1, each 8 (rows + 8) roundings at most
    step = Fraction(13 * 8 * 108) * U / (1 - 8 * 108 * U)
    worst = float(4 * step) * frobenius + margin
    values = spectrum.singular_values
    for box, error in ((spectrum.raw.consistent, practical), (spectrum.raw.worst_case, worst)):
        assert box.upper - values == pytest.approx(np.full(12, error), rel=1e-2)
        assert values - box.lower == pytest.approx(np.full(12, error), rel=1e-2)
    assert step_error(100, 13) == pytest.approx(float(step), rel=1e-12)


def test_the_reflector_count_covers_what_higham_counts():
    for rows in (1, 10, 2048, 10**6):
        length = rows + 1
        vector_and_scalar, application = 3 * length + 34, 2 * length + 9
        assert vector_and_scalar + application <= 8 * (rows + 8)


def with_an_impossible_entry(gram: Triangle) -> Triangle:
    lower = gram.lower()
    lower[2, 1] += 2 * lower[2, 2]
    return Triangle.of(lower)


def test_a_negative_eigenvalue_beyond_the_bound_is_an_error_or_widens_what_was_measured():
    rows = np.random.default_rng(0).standard_normal((300, 6))
    broken = absorbed(GramAccumulator, rows)
    broken._gram = with_an_impossible_entry(broken._gram)
    with pytest.raises(ArithmeticCheckError, match="an eigenvalue is"):
        broken.spectrum(unit_roundoff=2.0**-53)
    measured = absorbed(Float32GramAccumulator, rows)
    measured._gram = with_an_impossible_entry(measured._gram)
    assert measured.spectrum(unit_roundoff=2.0**-53).raw.consistent.upper[-1] > 10.0


@pytest.mark.parametrize("kind", [GramAccumulator, Float32GramAccumulator, TsqrAccumulator])
def test_a_state_is_a_snapshot(kind):
    accumulator = kind(3)
    accumulator.update(with_ones(np.array([[1.0, 0.0, 0.1]])), 0)
    state = accumulator.to_arrays()
    before = {name: array.tobytes() for name, array in state.items()}
    accumulator.update(with_ones(np.array([[1.0, 2.0, 0.7]])), 1)
    assert {name: array.tobytes() for name, array in state.items()} == before


@pytest.mark.parametrize(
    ("spectrum", "method", "precision", "half_width"),
    [
        ("k^-1/2", "gram", "float64", 1e-7), ("k^-1", "gram", "float64", 1e-7), ("rank 40", "gram", "float64", 2e-3),
        ("decay", "gram", "float64", 2e-3), ("k^-1/2", "tsqr", "float64", 1e-8), ("k^-1", "tsqr", "float64", 1e-8),
        ("rank 40", "tsqr", "float64", 1e-8), ("decay", "tsqr", "float64", 1e-8),
    ],
)  # fmt: skip
def test_intervals_are_as_narrow_as_is_promised(spectrum, method, precision, half_width):
    k = np.arange(1, 385)
    planted = {
        "k^-1/2": k**-0.5, "k^-1": 1.0 / k, "rank 40": np.where(k <= 40, 1.0, 1e-8), "decay": np.exp(-k / 20.0)
    }[spectrum]  # fmt: skip
    rows = matrix_with_spectrum(planted, n_rows=4000, n_features=384)
    rankme = rs.measure(rows, method=method, precision=precision, tolerance=1.0).rankme
    assert rankme.half_width <= half_width * rankme.value
    assert rankme.lower <= rs.metrics.rankme(planted) * (1 + 1e-12)
    assert rankme.upper >= rs.metrics.rankme(planted) * (1 - 1e-12)
