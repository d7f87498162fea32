"""The accumulators keep the laws and agree with a dense SVD to what they promise."""

from __future__ import annotations

import gc
import pickle
import tracemalloc
import weakref
from fractions import Fraction

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.nystrom.test_vectors import OrthonormalBasis, TestVectors
from rankme_stream.accumulators.row_totals import RowTotals
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.errors import ArithmeticCheckError, UsageError
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.testing import AccumulatorLaws, matrix_with_spectrum, with_ones


class TestGramLaws(AccumulatorLaws):
    def make(self, n_features: int) -> GramAccumulator:
        return GramAccumulator(n_features)


class TestTsqrLaws(AccumulatorLaws):
    def make(self, n_features: int) -> TsqrAccumulator:
        return TsqrAccumulator(n_features)


def absorbed(kind: type, rows: np.ndarray, panel_rows: int = 64):
    accumulator = kind(rows.shape[1])
    for start in range(0, len(rows), panel_rows):
        accumulator.update(with_ones(rows[start : start + panel_rows]), start)
    return accumulator


@pytest.mark.parametrize("kind", [GramAccumulator, TsqrAccumulator])
@pytest.mark.parametrize("shape", [(500, 20), (7, 20), (1, 5), (40, 1), (1, 1), (20, 20)])
def test_both_spectra_equal_a_dense_svd(kind, shape):
    rows = np.random.default_rng(3).standard_normal(shape) + 0.5
    spectrum = absorbed(kind, rows).spectrum(unit_roundoff=2.0**-53)
    for found, matrix in ((spectrum.raw, rows), (spectrum.centered, rows - rows.mean(axis=0))):
        dense = np.linalg.svd(matrix, compute_uv=False)
        assert found.values.shape == dense.shape == (min(shape),)
        error = 64 * 2.0**-53 * np.linalg.norm(rows)  # of the dense reference itself
        assert np.all(found.consistent.lower - error <= dense)
        assert np.all(dense <= found.consistent.upper + error)


def test_qr_resolves_values_that_a_gram_cannot():
    planted = np.array([1.0, 1e-6, 1e-11])
    rows = matrix_with_spectrum(planted, n_rows=400, n_features=3)
    by_qr = absorbed(TsqrAccumulator, rows).spectrum(unit_roundoff=2.0**-53)
    by_gram = absorbed(GramAccumulator, rows).spectrum(unit_roundoff=2.0**-53)
    assert np.all(np.abs(by_qr.singular_values - planted) <= 1e-13)
    assert by_qr.raw.consistent.upper[-1] < 2e-11
    assert by_gram.raw.consistent.lower[-1] == 0.0
    assert by_gram.raw.consistent.upper[-1] > 1e-7


@pytest.mark.parametrize("kind", [GramAccumulator, TsqrAccumulator])
def test_features_that_are_always_zero_give_exact_zeros(kind):
    rows = np.random.default_rng(0).standard_normal((300, 8))
    rows[:, [2, 5]] = 0.0
    spectrum = absorbed(kind, rows).spectrum(unit_roundoff=2.0**-53)
    assert np.all(spectrum.raw.consistent.upper[-2:] == 0.0)
    assert np.all(spectrum.singular_values[-2:] == 0.0)
    assert spectrum.raw.consistent.lower[-3] > 0.0


@pytest.mark.parametrize("kind", [GramAccumulator, TsqrAccumulator])
@pytest.mark.parametrize("scale", [1.0, 2.0**-700])
@pytest.mark.parametrize("n_features", [None, 7])
def test_the_scaled_gram_is_that_of_the_scaled_rows(kind, scale, n_features):
    rows = np.random.default_rng(4).standard_normal((60, 12)) + 0.5
    accumulator = kind(12)
    accumulator.update(with_ones(rows * scale), 0)
    accumulator = accumulator if n_features is None else accumulator.prefix(n_features)
    for centered in (False, True):
        gram = accumulator.scaled_gram(centered=centered)
        wanted = np.ldexp(rows * scale, gram.exponent) - centered * np.ldexp(rows * scale, gram.exponent).mean(axis=0)
        wanted = wanted[:, :n_features]
        assert np.allclose(np.tril(gram.lower), np.tril(wanted.T @ wanted), rtol=1e-12, atol=1e-12)


def test_the_chain_counts_panel_rows_panels_and_merges():
    gram = absorbed(GramAccumulator, np.ones((256, 3)), panel_rows=64)
    assert gram.totals.chain == 64 + 3
    assert gram.merge(gram).totals.chain == 64 + 3 + 1


@pytest.mark.parametrize("kind", [GramAccumulator, TsqrAccumulator])
def test_accumulators_of_different_width_do_not_join(kind):
    with pytest.raises(UsageError, match="width"):
        kind(3).merge(kind(4))


EVERY_COUNT = ("n_rows", "energy", "sums", "chain")


def totals_of(rows: np.ndarray, panel_rows: int = 64, rows_error: float = 0.0) -> RowTotals:
    totals = RowTotals.empty(rows.shape[1], rows_error)
    for start in range(0, len(rows), panel_rows):
        totals = totals.with_panel(with_ones(rows[start : start + panel_rows]), HOST, EVERY_COUNT)
    return totals


def test_the_totals_of_no_rows_change_no_bit_of_others():
    rows = np.random.default_rng(1).standard_normal((200, 6))
    rows[:, 4] = 0.0
    totals, empty = totals_of(rows, rows_error=1e-15), RowTotals.empty(6, 1e-15)
    for merged in (totals.merge(empty), empty.merge(totals)):
        assert np.array_equal(merged.sums, totals.sums)
        assert merged.nonzero.tolist() == [True] * 4 + [False, True]
        for name in ("n_rows", "energy", "chain", "rows_error"):
            assert getattr(merged, name) == getattr(totals, name)


def test_a_merge_keeps_the_larger_error_of_the_rows():
    one, other = totals_of(np.ones((3, 2)), rows_error=1e-15), totals_of(np.ones((3, 2)))
    assert one.merge(other).rows_error == other.merge(one).rows_error == 1e-15


def test_the_exact_sums_lie_within_the_bounds_of_the_totals():
    rows = np.random.default_rng(2).standard_normal((999, 5)) * 10.0 ** np.arange(-6, 9, 3) + 1.0
    totals = totals_of(rows[:500]).merge(totals_of(rows[500:], 7)).completed()
    exact = [[Fraction(value) for value in row] for row in rows.tolist()]
    sums = [sum(column) for column in zip(*exact, strict=True)]
    least, most = map(Fraction, totals.energy_ends(centered=False))
    energy = sum(value * value for row in exact for value in row)
    assert least <= energy <= most
    assert most - least <= energy / 10**12
    mean_energy = sum(total * total for total in sums) / len(rows)
    least, most = map(Fraction, totals.energy_ends(centered=True))
    assert least <= energy - mean_energy <= most
    assert sum((Fraction(s) - total) ** 2 for s, total in zip(totals.sums.tolist(), sums, strict=True)) <= (
        Fraction(totals.sums_error) ** 2
    )
    low, high = map(Fraction, totals.row_sum)
    assert low**2 <= sum(total * total for total in sums) <= high**2


def test_an_energy_that_is_not_finite_is_refused():
    with pytest.raises(ArithmeticCheckError, match="energy"):
        RowTotals.empty(3).completed(energy=np.inf)


@pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"method": "gram", "precision": "float64"},
        {"method": "gram", "precision": "float32"},
        {"method": "tsqr"},
        {"method": "rsvd", "rank": 90, "oversampling": 10},
        {"method": "rsvd", "rank": 90, "oversampling": 10, "passes": 2, "tolerance": 1e-12},
        {"method": "frequent-directions", "rank": 100},
        {"method": "row-sketch"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_nothing_as_large_as_a_sketch_outlives_a_pass(options):
    n_features = 256
    rows = np.random.default_rng(4).standard_normal((8200, n_features)).astype(np.float32)
    arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    tracemalloc.start()
    try:
        result = rs.measure(rows, workers=2, **options)
        gc.collect()
        sizes = [trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces]
    finally:
        tracemalloc.stop()
    assert result.source["n_rows"] == len(rows)
    assert max(sizes, default=0) < 8 * n_features * 100


def test_equal_test_vectors_share_one_matrix_that_goes_with_the_last_of_them():
    one, other = (TestVectors(300, 40, 5) for _ in range(2))
    matrix = one.on(HOST)
    assert other.on(HOST) is matrix
    kept = weakref.ref(matrix)
    del matrix, one
    gc.collect()
    assert kept() is not None
    del other
    gc.collect()
    assert kept() is None


def test_test_vectors_of_two_bases_do_not_share():
    rows = np.linalg.qr(np.random.default_rng(6).standard_normal((100, 3)))[0].T
    one, other = (TestVectors(100, 67, 5, 1, OrthonormalBasis(rows)) for _ in range(2))
    assert one.on(HOST) is not other.on(HOST)
    assert np.array_equal(one.on(HOST), other.on(HOST))


def test_a_copy_of_test_vectors_leaves_the_matrix_behind():
    vectors = TestVectors(300, 40, 5)
    size = len(pickle.dumps(vectors))
    vectors.on(HOST)
    assert len(pickle.dumps(vectors)) == size < 1000
    assert pickle.loads(pickle.dumps(vectors)) == vectors
