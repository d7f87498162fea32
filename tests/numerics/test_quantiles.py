"""Quantiles are those of closed forms."""

from __future__ import annotations

import math

import pytest

from rankme_stream.numerics.quantiles import chi_square_quantile, student_quantile


def test_student_s_quantiles_are_those_of_closed_forms():
    assert student_quantile(1, 0.9) == pytest.approx(math.tan(0.45 * math.pi), rel=1e-12)  # Cauchy
    assert student_quantile(2, 0.6) == pytest.approx(0.6 * math.sqrt(2 / (1 - 0.6**2)), rel=1e-12)


def test_a_chi_square_of_two_degrees_is_exponential():
    for probability in (1e-6, 0.3, 0.99):
        assert chi_square_quantile(2, probability) == pytest.approx(-2.0 * math.log1p(-probability), rel=1e-12)
