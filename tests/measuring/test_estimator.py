"""The scikit-learn estimator passes scikit-learn's own checks and agrees with ``measure``."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import rankme_stream as rs
from rankme_stream.errors import MagnitudeError, UsageError

METHODS = ["gram", "tsqr"]


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3000, 24)) * np.arange(1, 25) ** -0.5 + 0.2


@parametrize_with_checks([rs.RankMe(), rs.RankMe("tsqr")])
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


@pytest.mark.parametrize("method", METHODS)
def test_the_estimator_agrees_with_measure(rows, method):
    wanted = rs.measure(rows, method=method)
    found = rs.RankMe(method).fit(rows)
    assert wanted.rankme.lower <= found.rankme_ <= wanted.rankme.upper
    assert found.interval_[0] <= wanted.rankme.value <= found.interval_[1]
    assert found.estimates_.keys() == wanted.estimates.keys()
    assert (found.n_samples_seen_, found.n_features_in_) == rows.shape
    assert np.allclose(found.singular_values_, np.linalg.svd(rows, compute_uv=False), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_merges_equal_one_fit(rows, method):
    whole = rs.RankMe(method).fit(rows)
    batches = rs.RankMe(method)
    for start in range(0, len(rows), 700):
        batches.partial_fit(rows[start : start + 700])
    merged = rs.RankMe(method).fit(rows[:1]).merge(rs.RankMe(method).fit(rows[1:]))
    for found in (batches, merged):
        assert found.n_samples_seen_ == len(rows)
        assert found.interval_[0] <= whole.rankme_ <= found.interval_[1]


def test_fitting_again_forgets(rows):
    estimator = rs.RankMe().fit(rows)
    assert estimator.fit(rows[:50]).n_samples_seen_ == 50


def test_score_is_of_the_rows_given(rows):
    estimator = rs.RankMe().fit(rows)
    before = estimator.rankme_
    score = estimator.score(rows[:100])
    assert isinstance(score, float)
    assert score == rs.RankMe().fit(rows[:100]).rankme_
    assert estimator.rankme_ == before


def test_a_clone_keeps_the_method_and_unknown_methods_are_refused(rows):
    assert clone(rs.RankMe("tsqr")).method == "tsqr"
    with pytest.raises(UsageError, match="method 'svd' is not one of gram, tsqr"):
        rs.RankMe("svd").fit(rows)
    with pytest.raises(UsageError, match="cannot join"):
        rs.RankMe().fit(rows).merge(rs.RankMe("tsqr").fit(rows))
    assert np.isnan(rs.RankMe().fit(np.zeros((3, 2))).rankme_)


@pytest.mark.parametrize("rows", [np.full((4, 2), 1e200), np.full((4, 2), 2**60)])
def test_values_out_of_range_are_refused_and_leave_it_as_it_was(rows):
    estimator = rs.RankMe().fit(np.eye(3)[:, :2])
    before = estimator.rankme_
    with pytest.raises(MagnitudeError, match=r"beyond 2\^"):
        estimator.partial_fit(rows)
    assert estimator.partial_fit(np.eye(3)[:, :2]).n_samples_seen_ == 6
    assert estimator.rankme_ == pytest.approx(before)
