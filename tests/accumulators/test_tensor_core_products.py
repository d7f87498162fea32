"""Products of 16-bit rows that tensor cores cut off: put right by their diagonal, and what is left is measured."""

from __future__ import annotations

from functools import cache

import array_api_compat.numpy as array_api_numpy
import ml_dtypes
import numpy as np
import pytest

from rankme_stream.accumulators.error_probes import SAFETY
from rankme_stream.accumulators.float32_gram import Float32GramAccumulator
from rankme_stream.accumulators.method import PANEL_ROWS
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.spectra import metrics
from rankme_stream.spectra.estimates import estimate_all
from tests.tensor_core_model import tensor_core_product

N_ROWS, D = 4 * PANEL_ROWS, 48
TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
KINDS = {
    "k^-1/2": lambda z, u: z * np.arange(1, D + 1) ** -0.5,
    "mean 1": lambda z, u: 0.3 * z + 1,
    "positive": lambda z, u: np.abs(z),
    "heavy": lambda z, u: z / np.maximum(u, 0.02),
}
GAINS = {"k^-1/2": 15.0, "mean 1": 4.0, "positive": 3.0, "heavy": 2.0}  # as measured: 28, 5.2, 4.0, 3.0 in float16


class TensorCores(StandardDevice):
    """A card whose products of 16-bit rows are those of the model."""

    def __init__(self) -> None:
        super().__init__(array_api_numpy, "tensor:0")

    def set_product(self, left, right, out):
        if left.dtype.itemsize > 2:
            super().set_product(left, right, out)
        else:
            out[...] = tensor_core_product(left)


class AsTheyCome(TensorCores):
    """The same, with products that nothing puts right."""

    def _with_true_diagonal(self, product, panel):
        return product


@cache
def rows_of(kind: str, name: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    return KINDS[kind](rng.standard_normal((N_ROWS, D)), rng.random((N_ROWS, 1))).astype(TYPES[name])


@cache
def queued(kind: str, name: str, card: type = TensorCores, seed: int = 1) -> Float32GramAccumulator:
    return absorbed(rows_of(kind, name), card(), seed)


def absorbed(rows: np.ndarray, card: StandardDevice, seed: int = 1) -> Float32GramAccumulator:
    made = Float32GramAccumulator(rows.shape[1], Workspace(card), seed=seed)
    slab = np.concatenate([np.ones((len(rows), 1), rows.dtype), rows], axis=1)
    overflowed = np.zeros(-(-len(rows) // PANEL_ROWS), np.uint8)
    made.queue(slab, PANEL_ROWS, overflowed)
    made.set_nonzero((rows != 0).any(axis=0))
    assert not overflowed.any()
    return made


def error_of(made: Float32GramAccumulator, rows: np.ndarray) -> tuple[float, float]:
    """Return the Frobenius error of a Gram and what its probes say of it, both relative to the trace."""
    wide, held = rows.astype(np.float64), made.on_host()
    exact, found = wide.T @ wide, np.tril(held._gram.lower()[1:, 1:])
    trace = float(np.trace(exact))
    residual = held.probes.residual(held._gram, held.totals)
    return float(np.linalg.norm(found + np.tril(found, -1).T - exact)) / trace, residual.estimate / trace


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("kind", KINDS)
class TestEveryKindOfRows:
    def test_the_diagonal_takes_most_of_the_error(self, kind, name):
        rows = rows_of(kind, name)
        before, _ = error_of(queued(kind, name, AsTheyCome), rows)
        after, _ = error_of(queued(kind, name), rows)
        assert before > GAINS[kind] * after

    def test_probes_see_what_is_left(self, kind, name):
        error, _ = error_of(queued(kind, name), rows_of(kind, name))
        for seed in range(1, 6):
            _, estimate = error_of(queued(kind, name, seed=seed), rows_of(kind, name))
            assert error / SAFETY < estimate < 3 * error

    def test_the_interval_holds_the_true_rankme(self, kind, name):
        exact = np.linalg.svd(rows_of(kind, name).astype(np.float64), compute_uv=False)
        for card in (TensorCores, AsTheyCome):
            made = queued(kind, name, card)
            made.check(0, N_ROWS)
            spectrum = made.spectrum(unit_roundoff=2.0**-11)
            found, box = estimate_all(spectrum)["rankme"], spectrum.raw.consistent
            assert found.lower <= metrics.rankme(exact) <= found.upper
            assert np.all(box.lower <= exact) and np.all(exact <= box.upper)
            assert spectrum.evidence == "measured"


@pytest.mark.parametrize("name", TYPES)
def test_the_interval_of_a_healthy_spectrum_is_narrow(name):
    for kind, least in (("k^-1/2", 1e-5), ("positive", 1e-4), ("heavy", 1e-5), ("mean 1", 1e-3)):
        found = estimate_all(queued(kind, name).spectrum(unit_roundoff=2.0**-11))["rankme"]
        assert found.half_width < least * found.value
    as_it_comes = estimate_all(queued("mean 1", "float16", AsTheyCome).spectrum(unit_roundoff=2.0**-11))["rankme"]
    assert as_it_comes.half_width > 1e-3 * as_it_comes.value


@pytest.mark.parametrize("name", TYPES)
def test_a_feature_of_zeros_stays_zero(name):
    rows = rows_of("positive", name).copy()
    rows[:, 7] = 0.0
    made = absorbed(rows, TensorCores())
    whole = made.on_host()._gram.lower()
    assert not whole[8, :9].any() and not whole[8:, 8].any()
    error, _ = error_of(made, rows)
    before, _ = error_of(absorbed(rows, AsTheyCome()), rows)
    assert before > GAINS["positive"] * error
    assert made.spectrum(unit_roundoff=2.0**-11).raw.consistent.upper[-1] == 0.0


@pytest.mark.parametrize("power", [-50, -66, -72, -76, -100])
def test_squares_that_underflow_put_nothing_right(power):
    """What is left of a sum of subnormal squares says nothing about the products with other features."""
    rows = rows_of("positive", "bfloat16").astype(np.float64)
    rows[:, 7] = np.ldexp(rows[:, 7], power)
    small = rows.astype(ml_dtypes.bfloat16)
    made, as_it_comes = absorbed(small, TensorCores()), absorbed(small, AsTheyCome())
    found, before = (one.on_host()._gram.lower() for one in (made, as_it_comes))
    exact = small.astype(np.float64)
    beside = exact[:, 7] @ exact[:, 5]
    assert found[8, 6] == pytest.approx(beside, rel=1e-5, abs=0.0)
    assert found[8, 8] == before[8, 8]
    error, _ = error_of(made, small)
    assert error < error_of(as_it_comes, small)[0] / GAINS["positive"]
    truth = np.linalg.svd(exact, compute_uv=False)
    box = made.spectrum(unit_roundoff=2.0**-8).raw.consistent
    assert np.all(box.lower <= truth) and np.all(truth <= box.upper)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diagonal_that_is_not_finite_is_flagged():
    rows = rows_of("positive", "bfloat16").copy()
    rows[2 * PANEL_ROWS + 5, 3] = 2.0**64
    made = Float32GramAccumulator(D, Workspace(TensorCores()))
    overflowed = np.zeros(4, np.uint8)
    made.queue(np.concatenate([np.ones((N_ROWS, 1), rows.dtype), rows], axis=1), PANEL_ROWS, overflowed)
    assert overflowed.tolist() == [0, 0, 1, 0]


def test_wider_products_are_not_touched():
    rows = rows_of("mean 1", "float16").astype(np.float32)
    mine, theirs = absorbed(rows, TensorCores()).to_arrays(), absorbed(rows, AsTheyCome()).to_arrays()
    assert all(np.array_equal(array, theirs[key]) for key, array in mine.items())
