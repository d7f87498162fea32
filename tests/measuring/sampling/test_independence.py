"""How many independent rows the rows of a sample count as: known cases."""

from __future__ import annotations

import numpy as np
import pytest

from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.measuring.sampling.independence import independence
from rankme_stream.measuring.sampling.replicates import Jackknife, merged
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.rounding import U
from rankme_stream.testing import with_ones

D, GROUPS = 48, 16


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Hold BLAS to one thread: for small matrices, more only take processor time."""
    with blas_threads.one_thread():
        yield


def measured(parts, kind=GramAccumulator):
    accumulators = []
    for part in parts:
        accumulators.append(kind(D))
        accumulators[-1].update(with_ones(part), 0)
    rows = np.concatenate(parts)
    lengths = ((rows / np.abs(rows).max()) ** 2).sum(axis=1)
    jackknife = Jackknife(accumulators, merged(accumulators), 1, unit_roundoff=U)
    return independence(
        jackknife.spectrum.raw.values, jackknife.values_without(centered=False), jackknife.replicate_rows,
        float(lengths.sum() ** 2 / (lengths**2).sum()),
    )  # fmt: skip


def drawn(seed: int, n_rows: int = 20) -> list[np.ndarray]:
    """Rows of uneven lengths in replicates of unequal size."""
    generator = np.random.default_rng(seed)
    rows = [generator.standard_normal((n_rows + number % 3, D)) for number in range(GROUPS)]
    return [one * generator.exponential(size=(len(one), 1)) for one in rows]


def test_independent_rows_count_as_all_whatever_their_lengths():
    shares = [measured(parts).independent_rows / sum(map(len, parts)) for parts in map(drawn, range(20))]
    assert np.mean(shares) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("copies", [2, 4])
def test_runs_of_copies_count_once(copies):
    shares = []
    for seed in range(10):
        parts = [np.repeat(one, copies, axis=0) for one in drawn(seed)]
        found = measured(parts)
        shares.append(found.independent_rows / sum(map(len, parts)))
        assert found.effective_rows > 0.0
    # of c copies: sum over pairs of one run is c |z|^4 a row, of which the lengths explain one
    assert np.mean(shares) == pytest.approx(1.0 / copies, rel=0.05)


def test_neither_the_method_nor_the_scale_matters():
    parts = drawn(1)
    wanted = measured(parts)
    for found in (measured(parts, TsqrAccumulator), measured([one * 2.0**-700 for one in parts])):
        assert found.independent_rows == pytest.approx(wanted.independent_rows, rel=1e-9)
        assert found.effective_rows == pytest.approx(wanted.effective_rows, rel=1e-9)


def test_equal_rows_show_no_noise():
    found = measured([np.ones((5, D))] * GROUPS)
    assert (found.effective_rows, found.independent_rows) == (np.inf, 80)
