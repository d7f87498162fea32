"""The scikit-learn estimator passes scikit-learn's own checks and agrees with ``measure``."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import rankme_stream as rs
from rankme_stream.errors import MagnitudeError, NonFiniteError, UsageError
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices import registry
from rankme_stream.spectra import metrics
from tests.toy_device import TOY

METHODS = ["gram", "tsqr"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Hold BLAS to one thread: for matrices as small as these, more take five times the processor time."""
    with blas_threads.one_thread():
        yield


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3000, 24)) * np.arange(1, 25) ** -0.5 + 0.2


class OnToy:
    """Rows on the toy."""

    def __init__(self, rows):
        self.rows = TOY.upload(rows)

    def __dlpack__(self, **_):
        raise BufferError("nothing is lent")

    def __dlpack_device__(self):
        return 77, 0


@pytest.fixture
def on_toy(monkeypatch):
    """Bring rows to the toy."""
    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))
    monkeypatch.setattr(registry, "_DLPACK_KINDS", {1: "cpu", 77: "toy"})
    monkeypatch.setattr(TOY.xp, "from_dlpack", lambda one: one.rows)
    return OnToy


@pytest.fixture(params=["host", "toy"])
def placed(request, on_toy):
    """Bring rows to a place."""
    return np.asarray if request.param == "host" else on_toy


@parametrize_with_checks([rs.RankMe(), rs.RankMe("tsqr", population=True)])
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


@pytest.mark.parametrize("method", METHODS)
def test_the_estimator_agrees_with_measure(rows, method, placed):
    wanted = rs.measure(rows, method=method)
    found = rs.RankMe(method).fit(placed(rows))
    assert wanted.rankme.lower <= found.rankme_ <= wanted.rankme.upper
    assert found.interval_[0] <= wanted.rankme.value <= found.interval_[1]
    assert found.estimates_.keys() == wanted.estimates.keys()
    assert (found.n_samples_seen_, found.n_features_in_) == rows.shape
    assert np.allclose(found.singular_values_, np.linalg.svd(rows, compute_uv=False), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_merges_equal_one_fit(rows, method, placed):
    whole = rs.RankMe(method).fit(rows)
    batches = rs.RankMe(method)
    for start in range(0, len(rows), 700):
        batches.partial_fit(placed(rows[start : start + 700]))
    merged = rs.RankMe(method).fit(placed(rows[:1])).merge(rs.RankMe(method).fit(placed(rows[1:])))
    again = pickle.loads(pickle.dumps(rs.RankMe(method).fit(placed(rows[:900])))).partial_fit(placed(rows[900:]))
    for found in (batches, merged, again):
        assert found.n_samples_seen_ == len(rows)
        assert found.interval_[0] <= whole.rankme_ <= found.interval_[1]


def test_fitting_again_forgets(rows):
    estimator = rs.RankMe().fit(rows)
    assert estimator.fit(rows[:50]).n_samples_seen_ == 50


def test_score_is_of_the_rows_given(rows, placed):
    estimator = rs.RankMe().fit(placed(rows))
    before = estimator.rankme_
    score = estimator.score(placed(rows[:100]))
    assert isinstance(score, float)
    assert score == rs.RankMe().fit(placed(rows[:100])).rankme_
    assert estimator.rankme_ == before


def test_a_clone_keeps_the_method_and_unknown_methods_are_refused(rows):
    assert clone(rs.RankMe("tsqr")).method == "tsqr"
    with pytest.raises(UsageError, match="method 'svd' is not one of gram, tsqr"):
        rs.RankMe("svd").fit(rows)
    with pytest.raises(UsageError, match="cannot join"):
        rs.RankMe().fit(rows).merge(rs.RankMe("tsqr").fit(rows))
    assert np.isnan(rs.RankMe().fit(np.zeros((3, 2))).rankme_)


@pytest.mark.parametrize("refused", [np.full((4, 2), 1e200), np.full((4, 2), 2**60), np.full((4, 2), np.inf)], ids=str)
def test_rows_that_are_refused_leave_no_trace(refused, placed):
    estimator, good = rs.RankMe(), placed(np.eye(3))
    for first in (estimator.fit, estimator.partial_fit):
        with pytest.raises((MagnitudeError, NonFiniteError, ValueError)):
            first(placed(refused))
        assert vars(estimator) == {"method": "gram", "population": False}
    before = dict(vars(estimator.partial_fit(good)))  # of another width
    for again, rows in ((estimator.fit, refused), (estimator.partial_fit, np.c_[refused, refused[:, :1]])):
        with pytest.raises((MagnitudeError, NonFiniteError, ValueError)):
            again(placed(rows))
        assert vars(estimator) == before
    assert estimator.partial_fit(good).n_samples_seen_ == 6
    assert estimator.merge(estimator).n_samples_seen_ == 12


FEW = 48  # features


def drawn(n_rows: int, seed: int) -> np.ndarray:
    """Rows whose population has a known RankMe: ``TRUE``."""
    return np.random.default_rng(seed).standard_normal((n_rows, FEW)) * np.arange(1, FEW + 1) ** -0.5


TRUE = metrics.rankme(np.arange(1, FEW + 1) ** -0.5)


@pytest.mark.parametrize("n_rows", [72, 200, 600])
def test_intervals_for_a_population_hold_it(n_rows):
    held, errors = 0, []
    for seed in range(6):
        found = rs.RankMe(population=True).fit(drawn(n_rows, seed))
        held += found.interval_[0] <= TRUE <= found.interval_[1]
        errors.append(found.rankme_ / TRUE - 1.0)
        assert found.interval_[1] - found.interval_[0] < 0.12 * TRUE
    assert held >= 5  # 95 %: fewer with probability 3 %
    assert abs(np.mean(errors)) < 0.01  # as they are, the rows give 11, 4 and 1.4 % less


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_merges_of_few_rows_agree_within_their_intervals(method, placed):
    rows = drawn(300, 0)
    whole, batches = rs.RankMe(method, population=True).fit(placed(rows)), rs.RankMe(method, population=True)
    for start in range(0, 300, 130):
        batches.partial_fit(placed(rows[start : start + 130]))
    merged = rs.RankMe(method, population=True).fit(rows[:100])
    again = pickle.loads(pickle.dumps(merged)).merge(rs.RankMe(method, population=True).fit(placed(rows[100:])))
    for found in (batches, again):
        assert found.n_samples_seen_ == 300
        assert found.rankme_ == pytest.approx(whole.rankme_, rel=0.01)
        assert found.interval_[0] < whole.rankme_ < found.interval_[1]
    assert whole.score(placed(rows)) == whole.rankme_
    with pytest.raises(UsageError, match="with population or without"):
        whole.merge(rs.RankMe(method).fit(rows))


def test_too_few_rows_and_copies_have_no_number_and_a_reason():
    few = rs.RankMe(population=True).fit(drawn(50, 0))
    assert np.isnan(few.rankme_)
    assert "fewer than 1.25 rows a feature" in few.estimates_["rankme"].reason
    copied = rs.RankMe(population=True).fit(np.repeat(drawn(30, 0), 4, axis=0))
    assert np.isnan(copied.rankme_)
    assert rs.RankMe(population=True).fit(np.zeros((200, 3))).estimates_["rankme"].reason == (
        "every row that was read is zero"
    )


def test_metrics_that_random_matrix_theory_does_not_give_say_so():
    found = rs.RankMe(population=True).fit(drawn(200, 0)).estimates_
    stated = {name for name, one in found.items() if one.value is not None}
    assert stated == {
        "rankme", "effective_rank", "centered_rankme", "centered_effective_rank", "variance_effective_rank",
        "participation_ratio", "isoscore",
    }  # fmt: skip
    assert found["nesum"].reason == "200 rows are fewer than 20 per feature, and this number needs 960"


def test_a_small_batch_on_a_card_takes_little_memory(on_toy):
    rows, estimator = on_toy(np.random.default_rng(0).standard_normal((64, 100))), rs.RankMe()
    estimator.fit(rows)
    tracemalloc.start()
    try:
        estimator.partial_fit(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 2**20  # 80 kB for a square matrix, 50 for the rows


def test_what_libraries_hold_is_fitted_as_the_array() -> None:
    da = pytest.importorskip("dask.array")
    rows = np.random.default_rng(3).standard_normal((400, 12)).astype(np.float32)
    rows[rows < 0.2] = 0
    wanted = rs.RankMe().fit(rows)
    for made in (sparse.csr_matrix(rows), sparse.coo_array(rows), da.from_array(rows, chunks=(100, 5))):
        found = rs.RankMe().fit(made)
        assert (found.rankme_, found.interval_) == (wanted.rankme_, wanted.interval_)
        assert rs.RankMe().partial_fit(made).partial_fit(made).score(made) == wanted.score(rows)
    with pytest.raises(ValueError, match="NaN"):
        rs.RankMe().fit(da.full((4, 3), np.nan))
