"""The exact values of the metrics against closed forms, and against the metrics in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flint import arb, ctx
from scipy.linalg import hadamard

from benchmarks.validity.ball_arithmetic import contains, inside_error, truth
from rankme_stream.spectra import metrics

RANKS = ("effective_rank", "stable_rank", "vendi")
CENTERED = (
    "centered_rankme",
    "centered_effective_rank",
    "variance_effective_rank",
    "participation_ratio",
    "nesum",
    "isoscore",
    "alpha_req",
)


def singular_values(Z, *, centered=False):
    return np.linalg.svd(Z - Z.mean(axis=0) if centered else Z, compute_uv=False)


def is_exactly(ball, value):
    return bool(arb(ball).is_exact() and ball == value)


def in_double(Z, unit_roundoff):
    """Every metric from NumPy's singular values."""
    s, c = singular_values(Z), singular_values(Z, centered=True)
    U = Z / np.linalg.norm(Z, axis=1, keepdims=True)
    u = singular_values(U)
    N, D = Z.shape
    cosines = U @ U.T
    chance = N + N * (N - 1) / D
    wanted = {
        "rankme": metrics.rankme(s),
        "effective_rank": metrics.effective_rank(s),
        "centered_rankme": metrics.rankme(c),
        "centered_effective_rank": metrics.effective_rank(c),
        "variance_effective_rank": metrics.variance_effective_rank(c),
        "participation_ratio": metrics.participation_ratio(c),
        "stable_rank": metrics.stable_rank(s),
        "nesum": metrics.nesum(c),
        "isoscore": metrics.isoscore(c, n_features=D),
        "numerical_rank": metrics.numerical_rank(s, unit_roundoff=unit_roundoff),
        "condition_number": metrics.condition_number(s),
        "normalized_rankme": metrics.rankme(u),
        "vendi": metrics.variance_effective_rank(u),
        "self_cluster": ((cosines**2).sum() - chance) / (N * N - chance),
        "cosine_anisotropy": (cosines.sum() - N) / (N * (N - 1)),
    }
    if min(N - 1, D) >= 13:
        wanted["alpha_req"] = metrics.alpha_req(c).alpha
    presets = {name: preset.compute(c if preset.centered else s) for name, preset in metrics.PRESETS.items()}
    return wanted, presets


@pytest.mark.parametrize("shape", [(40, 3), (200, 8), (60, 16), (40, 24), (300, 48)])
@pytest.mark.parametrize("scale", [1.0, 2.0**-40, 1e6])
def test_it_agrees_with_the_metrics_in_double_precision(shape, scale):
    Z = scale * (np.random.default_rng(shape[1]).normal(size=shape) + 0.5) * np.linspace(1.0, 2.0, shape[1])
    exact = truth(Z, unit_roundoff=0.1)
    wanted, presets = in_double(Z, 0.1)
    assert exact.metrics.keys() - wanted.keys() <= {"alpha_req"}
    assert exact.presets.keys() == presets.keys()
    for name, value in wanted.items():
        assert inside_error(exact.metrics[name], value) <= 1e-12 * max(1.0, abs(value)), name
    for name, value in presets.items():
        assert inside_error(exact.presets[name], value) <= 1e-12 * value, name


def test_few_rows_agree_with_the_metrics_in_double_precision():
    Z = np.random.default_rng(1).normal(size=(5, 12)) + 0.5
    exact = truth(Z)
    wanted, _ = in_double(Z, 2.0**-53)
    assert len(exact.singular_values) == len(exact.centered) == len(exact.unit) == 5
    assert [value.is_zero() for value in exact.centered] == [False] * 4 + [True]
    for name in ("rankme", "stable_rank", "numerical_rank", "condition_number", *CENTERED[:-1], "vendi"):
        assert inside_error(exact.metrics[name], wanted[name]) <= 1e-6, name  # NumPy's zero is 1e-16
    assert inside_error(exact.metrics["self_cluster"], wanted["self_cluster"]) <= 1e-12
    assert exact.metrics["alpha_req"] is None


def test_a_diagonal_matrix_has_its_entries_as_singular_values():
    exact = truth(np.diag([4.0, 2.0, 2.0, 0.0]))
    assert all(is_exactly(*pair) for pair in zip(exact.singular_values, [4.0, 2.0, 2.0, 0.0], strict=True))
    assert contains(exact.metrics["effective_rank"], math.nextafter(2**1.5, 0), math.nextafter(2**1.5, 9))
    assert is_exactly(exact.metrics["stable_rank"], 1.5)
    assert exact.metrics["condition_number"] == math.inf
    assert exact.metrics["numerical_rank"] == 3


@pytest.mark.parametrize("D", [4, 8, 16])
def test_orthogonal_columns_have_one_value_many_times(D):
    exact = truth(hadamard(D).astype(float))
    assert all(is_exactly(exact.metrics[name], D) for name in ("effective_rank", "stable_rank"))
    assert is_exactly(exact.metrics["condition_number"], 1)
    assert all(contains(exact.metrics[name], D * (1 - 2**-52), D) for name in RANKS)
    assert exact.centered[-1].is_zero() and not exact.centered[-2].is_zero()  # the column of ones
    assert is_exactly(exact.metrics["participation_ratio"], D - 1)
    assert is_exactly(exact.metrics["centered_effective_rank"], D - 1)
    assert contains(exact.metrics["self_cluster"], -1 / (D - 1) - 1e-15, -1 / (D - 1) + 1e-15)
    assert (exact.metrics["alpha_req"] is None) == (D < 16)
    if D == 16:
        assert is_exactly(exact.metrics["alpha_req"], 0)


def test_cosines_are_exact_where_the_unit_rows_are():
    exact = truth(np.vstack([hadamard(4), np.zeros((1, 4))]).astype(float))
    assert is_exactly(exact.metrics["cosine_anisotropy"], 0)
    assert len(exact.unit) == 4 and all(is_exactly(value, 1) for value in exact.unit)


@pytest.mark.parametrize("D", [2, 5, 9])
def test_equal_columns_give_an_exact_zero(D):
    Z = np.random.default_rng(D).normal(size=(50, D))
    Z[:, 1] = Z[:, 0]
    exact = truth(Z)
    for values in (exact.singular_values, exact.centered, exact.unit):
        assert [value.is_zero() for value in values] == [False] * (D - 1) + [True]
    assert exact.metrics["condition_number"] == math.inf
    assert exact.metrics["numerical_rank"] == D - 1


def test_the_tail_of_an_ill_conditioned_matrix_is_enclosed():
    k = np.arange(16)
    exact = truth(np.vstack([np.diag(2.0 ** -(8 * k)), np.diag(2.0 ** -(8 * k))]))
    for value, power in zip(exact.singular_values, k.tolist(), strict=True):
        with ctx.workprec(300):
            assert value.overlaps(arb(2).sqrt() * arb(2) ** (-8 * power))
            assert value.rad() < 1e-60 * value.mid()
    assert is_exactly(exact.metrics["condition_number"], 2.0**120)
    assert exact.metrics["numerical_rank"] == 7  # 2**-48, not 2**-56, is above 2**-53


def test_the_whole_range_of_doubles_is_exact():
    exact = truth(np.diag([2.0**480, 1.0, 2.0**-1074]))
    assert is_exactly(exact.singular_values[-1], 2.0**-1074)
    assert contains(exact.metrics["effective_rank"], 1.0, 1.0 + 2**-52)
    isoscore = 0.75 * 2.0**-960  # times 1 + 2**-960 or so
    assert contains(exact.metrics["isoscore"], math.nextafter(isoscore, 0.0), math.nextafter(isoscore, 1.0))
    assert not contains(exact.metrics["condition_number"], 1.0, 1.7e308)


def test_a_value_on_the_threshold_of_the_numerical_rank_is_not_above_it():
    Z = np.diag([4.0, 3.0])  # |Z| = 5
    assert truth(Z, unit_roundoff=0.75).metrics["numerical_rank"] == 1
    Z = np.diag([1.0, 1.0, 1.0, 1.0])  # |Z| = 2
    assert truth(Z, unit_roundoff=0.5).metrics["numerical_rank"] == 0
    assert truth(Z, unit_roundoff=math.nextafter(0.5, 0)).metrics["numerical_rank"] == 4


def test_equal_rows_have_no_centred_metric():
    exact = truth(np.tile([1.0, 0.1, 7.3], (6, 1)))
    assert all(value.is_zero() for value in exact.centered)
    assert all(exact.metrics[name] is None for name in CENTERED)
    assert exact.presets["reptrix"] is None
    assert all(is_exactly(exact.metrics[name], 1) for name in RANKS)
    for name in ("self_cluster", "cosine_anisotropy"):
        assert contains(exact.metrics[name], 1 - 2**-53, 1.0)


def test_zeros_have_no_metric():
    exact = truth(np.zeros((3, 2)))
    assert set(exact.metrics.values()) == set(exact.presets.values()) == {None}


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (1, 1)])
def test_one_row_or_one_column(shape):
    exact = truth(np.arange(1.0, 1 + np.prod(shape)).reshape(shape))
    assert is_exactly(exact.metrics["effective_rank"], 1) and is_exactly(exact.metrics["vendi"], 1)
    assert exact.metrics["self_cluster"] is None
    assert exact.metrics["isoscore"] is None
    assert (exact.metrics["cosine_anisotropy"] is None) == (shape[0] == 1)


def test_a_zero_row_has_no_direction():
    Z = np.random.default_rng(2).normal(size=(6, 3))
    with_zeros, without = truth(np.vstack([Z, np.zeros((4, 3))])), truth(Z)
    for name in ("normalized_rankme", "vendi", "self_cluster", "cosine_anisotropy"):
        assert with_zeros.metrics[name].overlaps(without.metrics[name])
    assert not with_zeros.metrics["nesum"].overlaps(without.metrics["nesum"])


def test_opposite_rows_and_a_row_far_smaller_than_the_others():
    Z = np.array([[3.0, 1.0], [-3.0, -1.0], [1e-300, 3e-290]])
    exact = truth(Z)
    assert contains(truth(Z[:2]).metrics["cosine_anisotropy"], -1.0, -1 + 2**-53)
    assert contains(exact.metrics["cosine_anisotropy"], -1 / 3 - 1e-15, -1 / 3 + 1e-15)
    assert exact.metrics["normalized_rankme"] > 1.8


def test_contains_is_sure_or_raises():
    third = arb(1) / 3
    assert contains(third, 0.3, math.inf) and contains(third, -math.inf, 0.4)
    assert not contains(third, 0.4, 0.5) and not contains(third, 0.1, 0.3)
    assert contains(2, 2.0, 2.0) and contains(math.inf, 1.0, math.inf) and not contains(math.inf, 1.0, 2.0)
    with pytest.raises(ArithmeticError):
        contains(arb(1, 2.0**-90), 1.0, 2.0)


def test_the_error_is_bounded_from_above():
    assert inside_error(arb(1, 0.25), 1.5) >= 0.75
    assert inside_error(3, 3.0) == 0.0
    assert inside_error(math.inf, math.inf) == 0.0
    assert inside_error(math.inf, 2.0) == math.inf
    assert 0 < inside_error(arb(1) / 3, 1 / 3) < 2**-53
