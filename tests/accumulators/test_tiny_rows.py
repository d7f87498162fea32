"""Rows whose squares underflow are summed times a power of two: no bit is lost, and nothing is called zero."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.accumulators.float32_gram import Float32GramAccumulator
from rankme_stream.accumulators.frequent_directions import FrequentDirectionsAccumulator
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.nystrom.accumulator import NystromAccumulator
from rankme_stream.accumulators.row_sketch.accumulator import RowSketchAccumulator
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.passes.loop.panel_feed import PanelFeed
from rankme_stream.spectra.estimates import estimate_all, estimate_presets
from rankme_stream.testing import with_ones
from tests.toy_device import TOY

pytestmark = pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")
D = 8
MAKERS = {
    "gram": GramAccumulator,
    "tsqr": TsqrAccumulator,
    "rsvd": partial(NystromAccumulator, sketch_size=3),
    "frequent-directions": partial(FrequentDirectionsAccumulator, sketch_size=3),
    "row-sketch": partial(RowSketchAccumulator, sketch_size=64),
}
METHODS = {
    "gram": {}, "tsqr": {}, "rsvd": {"rank": 3, "oversampling": 1}, "frequent-directions": {"rank": 3},
    "row-sketch": {},
}  # fmt: skip


def gaussian(n_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_rows, D)) * np.arange(1.0, D + 1) ** -0.7


def absorbed(kind: str, rows: np.ndarray, *cuts: int, device=HOST):
    made = MAKERS[kind](D, Workspace(device))
    for start, stop in pairwise([0, *cuts, len(rows)]):
        made.update(device.upload(with_ones(rows[start:stop])), start)
    return made


def sides(accumulator):
    spectrum = accumulator.spectrum(unit_roundoff=2.0**-53)
    return [(one.values, one.consistent) for one in (spectrum.raw, spectrum.centered)]


def same_arrays(one, two) -> bool:
    mine, theirs = one.to_arrays(), two.to_arrays()
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("device", [HOST, TOY], ids=["host", "strict"])
@pytest.mark.parametrize("power", [250, 480, 540, 750, 960])
@pytest.mark.parametrize("kind", MAKERS)
def test_the_spectrum_of_tiny_rows_has_the_bits_of_that_of_large_ones(kind, power, device):
    rows = gaussian(300)
    wanted = absorbed(kind, rows, 100, device=device)
    found = absorbed(kind, rows * 2.0**-power, 100, device=device)
    assert found.exponent == (480 if power < 750 else 960)
    for (values, ends), (tiny, around) in zip(sides(wanted), sides(found), strict=True):
        assert np.array_equal(np.ldexp(tiny, power), values)
        assert np.array_equal(np.ldexp(around.lower, power), ends.lower)
        assert np.array_equal(np.ldexp(around.upper, power), ends.upper)
    assert np.array_equal(np.ldexp(found.sums(), power), wanted.sums())
    for centered in (False, True):
        assert np.array_equal(np.ldexp(found.values(centered=centered), power), wanted.values(centered=centered))
    for table in (estimate_all, estimate_presets):
        mine, theirs = (table(one.spectrum(unit_roundoff=2.0**-53)) for one in (wanted, found))
        for name in mine.keys() - {"tsitsulin"}:  # its epsilon has the unit of the embeddings
            assert (mine[name].lower, mine[name].value, mine[name].upper) == (
                theirs[name].lower, theirs[name].value, theirs[name].upper,
            )  # fmt: skip


@pytest.mark.parametrize("kind", MAKERS)
def test_ends_that_become_subnormal_are_rounded_outward(kind):
    rows = np.ldexp(np.round(gaussian(300) * 2.0**20), -1074)
    for (values, ends), scaled in zip(sides(absorbed(kind, rows)), (rows, None), strict=True):
        assert np.all(ends.lower <= values) and np.all(values <= ends.upper)
        if scaled is not None:
            exact = np.linalg.svd(np.ldexp(scaled, 1074), compute_uv=False)  # a unit is the smallest double
            assert np.all(np.ldexp(ends.lower, 1074) <= exact) and np.all(exact <= np.ldexp(ends.upper, 1074))
            assert ends.lower[0] > 0.0


@pytest.mark.parametrize("tiny_first", [True, False])
@pytest.mark.parametrize("kind", MAKERS)
def test_larger_rows_bring_the_state_down(kind, tiny_first):
    """In one accumulator or in two that merge; the tiny rows are beyond the digits of the others."""
    tiny, large = gaussian(300, seed=1) * 2.0**-700, gaussian(300)
    rows = np.concatenate([tiny, large] if tiny_first else [large, tiny])
    first, last = absorbed(kind, rows[:300]), absorbed(kind, rows[300:])
    before = first.to_arrays(), last.to_arrays()
    dense = np.linalg.svd(rows, compute_uv=False)
    for whole in (absorbed(kind, rows, 300), first.merge(last)):
        assert whole.exponent == 0 and whole.n_rows == 600
        (_, ends), _ = sides(whole)
        assert np.all(ends.lower <= dense) and np.all(dense <= ends.upper)
        assert np.allclose(whole.sums(), rows.sum(axis=0), rtol=1e-12)
    for one, kept in zip((first, last), before, strict=True):  # neither argument changed
        assert all(np.array_equal(array, kept[name]) for name, array in one.to_arrays().items())


@pytest.mark.parametrize("kind", MAKERS)
def test_zeros_first_and_empty_states_change_no_bit(kind):
    rows, empty = gaussian(200) * 2.0**-540, MAKERS[kind](D)
    zeros = absorbed(kind, np.zeros((100, D)))
    whole = absorbed(kind, rows)
    assert zeros.exponent == 0 and "exponent" not in zeros.to_arrays()
    assert same_arrays(empty.merge(whole), whole) and same_arrays(whole.merge(empty), whole)
    for one in (zeros.merge(whole), whole.merge(zeros)):
        assert one.exponent == whole.exponent
        assert np.allclose(one.sums(), whole.sums(), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_state_carries_its_exponent_only_where_it_has_one(kind):
    tiny, usual = absorbed(kind, gaussian(200) * 2.0**-540), absorbed(kind, gaussian(200))
    assert "exponent" not in usual.to_arrays()
    assert tiny.to_arrays()["exponent"] == 480
    again = type(tiny).from_arrays(tiny.to_arrays())
    assert again.exponent == 480 and same_arrays(again, tiny)
    assert type(usual).from_arrays(usual.to_arrays()).exponent == 0


def test_threads_that_share_a_state_give_the_same_bits():
    rows = np.concatenate([gaussian(200) * 2.0**-900, gaussian(200) * 2.0**-500, gaussian(200), gaussian(200)])
    alone, shared = GramAccumulator(D), GramAccumulator(D)
    feed = PanelFeed(3)
    for start in range(0, len(rows), 100):
        alone.update(with_ones(rows[start : start + 100]), start)
        (panel,) = feed.panels(["raw"], (100, D + 1))
        panel[...] = with_ones(rows[start : start + 100])
        feed.update(shared, panel, start)
    feed.finish()
    feed.close()
    assert same_arrays(alone, shared)


def test_the_first_features_alone_may_be_lost_but_are_not_called_zero():
    rows = gaussian(300)
    rows[:, :3] *= 2.0**-600
    whole = absorbed("gram", rows)
    spectrum = whole.prefix(3).spectrum(unit_roundoff=2.0**-53)
    assert np.all(spectrum.raw.consistent.upper > 0.0)
    assert "to within" in estimate_all(spectrum)["rankme"].reason


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("power", [500, 518, 540, 1000])
def test_a_measurement_of_tiny_rows_is_that_of_large_ones(method, power, normalize):
    rows = gaussian(2000)
    options = METHODS[method] | {"method": method, "tolerance": 9.0, "normalize": normalize}
    wanted, found = rs.measure(rows, **options), rs.measure(rows * 2.0**-power, **options)
    assert (found.rankme.lower, found.rankme.value, found.rankme.upper) == (
        wanted.rankme.lower, wanted.rankme.value, wanted.rankme.upper,
    )  # fmt: skip
    assert found["participation_ratio"] == wanted["participation_ratio"]
    if normalize:
        assert found.normalized["vendi"].value == pytest.approx(wanted.normalized["vendi"].value, rel=1e-12)
    held = found.to_dict()["spectrum"]
    assert held["upper"][0] >= np.linalg.svd(rows * 2.0**-power, compute_uv=False)[0] * (1 - 1e-12)


def test_later_passes_of_tiny_rows_are_those_of_large_ones():
    options = {"method": "rsvd", "rank": 4, "oversampling": 0, "passes": 3, "tolerance": 1e-15}
    wanted, found = rs.measure(gaussian(2000), **options), rs.measure(gaussian(2000) * 2.0**-540, **options)
    assert (found.rankme.lower, found.rankme.upper) == (wanted.rankme.lower, wanted.rankme.upper)


def test_a_sample_of_tiny_rows_is_that_of_large_ones():
    rows = gaussian(40_000)
    wanted, found = (rs.measure(rows * 2.0**-power, sample=True, tolerance=0.05) for power in (0, 540))
    assert found.rankme == wanted.rankme
    assert found["participation_ratio"] == wanted["participation_ratio"]


@pytest.mark.parametrize("method", METHODS)
def test_only_rows_of_zeros_are_called_zero(method):
    options = METHODS[method] | {"method": method, "tolerance": 9.0}
    zero = rs.measure(np.zeros((2000, D)), **options)
    assert zero.rankme.reason == "all singular values are zero" and not zero.spectrum.raw.consistent.upper.any()
    rows = np.zeros((2000, D))
    rows[1000, 3] = 2.0**-1074
    found = rs.measure(rows, **options)
    assert found.rankme.reason != "all singular values are zero"
    assert found.spectrum.raw.consistent.upper[0] >= 2.0**-1074


def test_float32_products_of_tiny_rows_are_lost_and_the_interval_says_so():
    made = Float32GramAccumulator(D)
    rows = gaussian(300) * 2.0**-90
    made.update(with_ones(rows), 0)
    (_, ends), _ = sides(made)
    dense = np.linalg.svd(rows, compute_uv=False)
    assert np.all(ends.lower <= dense) and np.all(dense <= ends.upper)


def test_parts_of_tiny_and_of_usual_rows_join_to_the_bits_of_one_pass(tmp_path):
    rows = np.concatenate([gaussian(70_000) * 2.0**-600, gaussian(70_000, seed=1)])
    np.save(tmp_path / "rows.npy", rows)
    parts = [tmp_path / f"part-{k}" for k in range(3)]
    for k, state in enumerate(parts):
        rs.segment(tmp_path / "rows.npy", part=(k, 3), state=state, method="gram")
    joined = rs.measure_state(rs.merge_states([rs.load_state(path) for path in parts]))
    whole = rs.measure(tmp_path / "rows.npy", method="gram")
    assert joined.rankme == whole.rankme
    assert np.array_equal(joined.spectrum.singular_values, whole.spectrum.singular_values)


@pytest.mark.parametrize("power", [-300, 260, 300, 459])
def test_frequent_directions_of_any_scale_state_the_same_interval(power):
    """Their bound multiplies two squares, whose product leaves the range of float64 long before a square does."""
    options = {"method": "frequent-directions", "rank": 3, "tolerance": 9.0}
    wanted, found = rs.measure(gaussian(300), **options), rs.measure(gaussian(300) * 2.0**power, **options)
    assert found.rankme.lower == pytest.approx(wanted.rankme.lower, rel=1e-12)  # LAPACK scales large matrices itself
    assert found.rankme.upper == pytest.approx(wanted.rankme.upper, rel=1e-12)
