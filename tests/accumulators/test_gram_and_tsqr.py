"""The accumulators keep the laws and agree with a dense SVD to what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.errors import UsageError
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


def test_the_chain_counts_panel_rows_panels_and_merges():
    gram = absorbed(GramAccumulator, np.ones((256, 3)), panel_rows=64)
    assert gram.chain == 64 + 3
    assert gram.merge(gram).chain == 64 + 3 + 1


@pytest.mark.parametrize("kind", [GramAccumulator, TsqrAccumulator])
def test_accumulators_of_different_width_do_not_join(kind):
    with pytest.raises(UsageError, match="width"):
        kind(3).merge(kind(4))
