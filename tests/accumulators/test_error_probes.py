"""The measured error of float32 products: its confidence, what it sees of every panel and feature, and its seed."""

from __future__ import annotations

import math
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.accumulators import error_probes
from rankme_stream.accumulators.error_probes import CONFIDENCE, N_PROBES, SAFETY, ErrorProbes
from rankme_stream.accumulators.float32_gram import Float32GramAccumulator
from rankme_stream.accumulators.row_totals import RowTotals
from rankme_stream.errors import ArithmeticCheckError, StateError, UsageError
from rankme_stream.measuring import pass_runner
from rankme_stream.numerics.devices import host
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.symmetric import Triangle
from rankme_stream.testing import with_ones
from tests.dumps import rows_like, same_bits, store

OLD = Path(__file__).parents[1] / "data" / "state-v1-gram-float32.rankme"


def absorbed(rows: np.ndarray, panel_rows: int = 64, **options) -> Float32GramAccumulator:
    accumulator = Float32GramAccumulator(rows.shape[1], **options)
    for start in range(0, len(rows), panel_rows):
        accumulator.update(with_ones(rows[start : start + panel_rows]), start)
    return accumulator


def estimate_of(error: np.ndarray, seed: int) -> float:
    """Return the estimate of a product's error, for a product of no rows."""
    whole = np.zeros((len(error) + 1,) * 2)
    whole[1:, 1:] = error
    return ErrorProbes(len(error), seed).residual(Triangle.of(whole), RowTotals.empty(len(error))).estimate


def below(x: float) -> float:
    """Return P(chi-square_8 < x), in closed form for an even number of degrees."""
    half = x / 2
    return 1 - math.exp(-half) * math.fsum(half**k / math.factorial(k) for k in range(N_PROBES // 2))


def rank_one_misses(safety: float, trials: int) -> int:
    """Return how often a product error of rank one exceeds ``safety`` times its estimate, over seeds of the probes."""
    error = np.outer([1.0, 2.0, -2.0], [1.0, 2.0, -2.0])
    return sum(np.linalg.norm(error) > safety * estimate_of(error, seed) for seed in range(trials))


def test_the_probes_keep_their_confidence_and_half_the_factor_would_not():
    trials = 20_000
    allowed = (1 - CONFIDENCE) * trials  # 5.4 at most; 17 has a chance below 1e-4
    assert rank_one_misses(SAFETY, trials) <= allowed + 11
    assert rank_one_misses(SAFETY / 2, trials) > 10 * allowed


def test_the_confidence_is_twice_the_chi_square_tail_of_rank_one():
    tail = 2 * below(N_PROBES / SAFETY**2)
    assert 1 - CONFIDENCE >= tail > 0.9 * (1 - CONFIDENCE)


@pytest.mark.parametrize("n_features", [1, 8, 768, 3072, 4096, 65_536])
def test_no_feature_is_nearly_unseen_and_half_of_all_draws_have_none(n_features):
    least = 0.5 if n_features <= 3072 else 2 * (12 / n_features) ** 0.25
    assert (1 - below(least)) ** n_features >= 0.5
    for seed in range(3):
        directions = error_probes._directions(n_features, seed, HOST)
        assert not directions[0].any()
        assert np.square(directions[1:]).sum(axis=1).min() >= least
    again = error_probes._directions.__wrapped__(n_features, 2, HOST)
    assert np.array_equal(again, directions)
    assert not np.array_equal(error_probes._directions(n_features, 3, HOST), directions)


def test_a_light_row_is_drawn_again():
    drawn = [np.square(error_probes.counter_rng.normal((500, 8), seed=seed, counter=0)).sum(axis=1)
             for seed in range(100)]  # fmt: skip
    seed, feature = next((seed, int(one.argmin())) for seed, one in enumerate(drawn) if one.min() < 0.5)
    assert np.square(error_probes._directions(500, seed, HOST)[1 + feature]).sum() >= 0.5
    error = np.zeros((500, 500))
    error[feature, feature] = 1.0
    assert SAFETY * estimate_of(error, seed) >= 1.0


def test_probes_estimate_the_error_that_float32_really_makes():
    rows = rows_like(8192, 48, seed=0).astype(np.float64)
    fast = absorbed(rows, panel_rows=1024)
    truth = rows.T @ rows
    gram = fast._gram.lower()
    error = np.tril(gram[1:, 1:]) - np.tril(truth)
    frobenius = np.linalg.norm(error + np.tril(error, -1).T)
    residual = fast.probes.residual(fast._gram, fast.totals)
    assert frobenius / 2 <= residual.estimate <= 2 * frobenius
    assert residual.rounding < residual.estimate / 100
    off = np.linalg.norm(gram[1:, 0] - rows.sum(axis=0))
    assert np.linalg.norm(residual.sums) == pytest.approx(off, rel=1e-6, abs=1e-12)
    spectrum = fast.spectrum(unit_roundoff=2.0**-11)
    assert (spectrum.evidence, spectrum.confidence) == ("measured", CONFIDENCE)
    exact = np.linalg.svd(rows, compute_uv=False)
    assert np.all(spectrum.raw.consistent.lower <= exact)
    assert np.all(exact <= spectrum.raw.consistent.upper)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 3), (1000, 5), (1024, 600), (63, 40)])
def test_slices_of_a_panel_add_up_to_its_products(dtype, shape):
    panel = with_ones(np.random.default_rng(0).standard_normal(shape).astype(dtype)).astype(dtype)
    directions = error_probes._directions(shape[1], 0, HOST)
    products, sums = np.ones((shape[1] + 1, 8)), np.ones(shape[1] + 1)
    HOST.add_probed(panel, directions, products, sums, Workspace())
    wide = panel.astype(np.float64)
    assert products - 1 == pytest.approx(wide.T @ (wide @ directions), rel=1e-9, abs=1e-9)
    assert sums - 1 == pytest.approx(wide.sum(axis=0), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("width", "feature"), [(960, 269), (1536, 755), (960, 5)])
def test_an_error_in_one_feature_is_seen_whichever_it_is(width, feature):
    """Probes with one seed for ever missed the first two, whatever the rows."""
    other = (feature + 1) % width
    for seed in range(12):
        rows = np.zeros((1024, width), np.float32)
        rows[:, feature] = np.repeat(np.random.default_rng(seed).uniform(1, 2, 512), 2)
        rows[:, other] = np.tile([-1.5, 1.5], 512)  # exact in float32, and orthogonal to the other
        found = rs.measure(rows, method="gram", precision="float32", workers=1, tolerance=1.0)
        squares = sorted((sum(Fraction(float(x)) ** 2 for x in rows[:, j]) for j in (feature, other)), reverse=True)
        stable, box = found["stable_rank"], found.spectrum.raw.consistent
        assert Fraction(stable.lower) <= 1 + squares[1] / squares[0] <= Fraction(stable.upper)
        for k, square in enumerate(squares):
            assert Fraction(float(box.lower[k])) ** 2 <= square <= Fraction(float(box.upper[k])) ** 2


@pytest.mark.parametrize("seed", range(3))
def test_three_panels_with_all_of_the_error_are_seen_among_exact_ones(seed):
    """More than 10^7 values, of which an earlier version probed a sample: it missed by up to 1,000 half-widths."""
    n_panels, width, rng = 160, 64, np.random.default_rng(seed)
    rows = np.where(rng.random((1024 * n_panels, width), dtype=np.float32) < 0.5, np.float32(-1), np.float32(1))
    gram = rows.reshape(n_panels, 1024, width).transpose(0, 2, 1) @ rows.reshape(n_panels, 1024, width)  # whole
    sums = rows.reshape(n_panels, 1024, width).sum(axis=1)
    bad = rng.choice(n_panels, 3, replace=False)
    alike = rng.uniform(1.2, 1.9, (3, width)).astype(np.float32)  # float32 sums of equal rows round one way
    for panel, row in zip(bad, alike, strict=True):
        rows[1024 * panel : 1024 * (panel + 1)] = row
    whole = np.delete(gram, bad, axis=0).astype(np.int64).sum(axis=0)
    column = np.delete(sums, bad, axis=0).astype(np.int64).sum(axis=0)
    exact = [[Fraction(float(x)) for x in row] for row in alike]
    total = [Fraction(int(column[i])) + 1024 * sum(row[i] for row in exact) for i in range(width)]
    n_rows = len(rows)
    centered = [
        [int(whole[i, j]) + 1024 * sum(row[i] * row[j] for row in exact) - total[i] * total[j] / n_rows
         for j in range(width)]
        for i in range(width)
    ]  # fmt: skip
    ratio = sum(centered[i][i] for i in range(width)) ** 2 / sum(x * x for row in centered for x in row)
    found = rs.measure(rows, method="gram", precision="float32", workers=1, tolerance=1.0)
    assert rows.size > 10**7
    for name, true in (("participation_ratio", ratio), ("isoscore", (ratio - 1) / (width - 1))):
        assert Fraction(found[name].lower) <= true <= Fraction(found[name].upper)
        assert found[name].confidence == CONFIDENCE
    assert found["participation_ratio"].half_width < 1e-5 * float(ratio)


@pytest.mark.parametrize("exponent", [-70, -140, -300, -480])
def test_what_float32_loses_to_underflow_is_inside_the_box(exponent):
    rows = np.random.default_rng(0).standard_normal((300, 6)) * 2.0**exponent
    box = absorbed(rows).spectrum(unit_roundoff=2.0**-53).raw.consistent
    truth = np.linalg.svd(rows, compute_uv=False)
    assert np.all(box.lower <= truth)
    assert np.all(truth <= box.upper)


def test_a_product_further_off_than_float32_can_be_is_corruption(monkeypatch):
    honest = host.cross_product

    def broken(left, right, out):
        honest(left, right, out)
        if len(left) > 200:  # not in the products of 128 rows that are tried before a pass
            out[5, 3] += 0.01 * out[5, 5]

    monkeypatch.setattr(host, "cross_product", broken)
    rows = np.random.default_rng(0).standard_normal((200_000, 16)).astype(np.float16)
    with pytest.raises(ArithmeticCheckError, match=r"rows (0-131,071|131,072-199,999): the product is .* off"):
        rs.measure(rows, precision="float32")


def test_the_first_features_keep_the_error_of_all():
    rows = rows_like(3000, 12).astype(np.float64)
    whole = absorbed(rows, seed=5)
    assert (
        whole.prefix(4)._measured_errors() == whole._measured_errors() == whole.prefix(7).prefix(4)._measured_errors()
    )
    halves = absorbed(rows[:1024], seed=5), absorbed(rows[1024:], seed=5)
    joined = halves[0].prefix(4).merge(halves[1].prefix(4))
    assert joined._measured_errors() == pytest.approx(halves[0].merge(halves[1])._measured_errors(), rel=0.1)


def measured(rows, **options) -> rs.Measurement:
    return rs.measure(rows, method="gram", precision="float32", tolerance=1.0, **options)


def test_the_seed_of_the_probes_is_that_of_the_user_and_of_the_values(tmp_path):
    rows = rows_like(3000, 12)
    first, second = (store(tmp_path / name, rows, chunk=size) for name, size in (("a.zarr", 700), ("b.zarr", 3000)))
    found = measured(first)
    assert found.plan.probe_seed
    assert f"confidence over their seed, {found.plan.probe_seed}" in found.spectrum.grounds
    assert same_bits(measured(second), found)
    assert same_bits(measured(rows), found)
    others = [measured(first, seed=1), measured(2 * rows)]
    assert len({found.plan.probe_seed, *(one.plan.probe_seed for one in others)}) == 3
    assert [one.rankme.value for one in others] == [found.rankme.value] * 2
    assert others[0].rankme.lower != found.rankme.lower


def test_only_float32_passes_read_rows_for_a_seed(monkeypatch):
    rows = rows_like(3000, 12)
    monkeypatch.setattr(pass_runner, "content_digest", None)
    for options in ({}, {"method": "tsqr"}, {"method": "rsvd", "rank": 2, "oversampling": 1}):
        assert rs.measure(rows, tolerance=9.0, **options).plan.probe_seed == 0
    with pytest.raises(TypeError):
        measured(rows)


def test_parts_with_other_seeds_do_not_join(tmp_path):
    path = store(tmp_path / "a.zarr", rows_like(300_000, 4), chunk=20_000)
    states = []
    for part, seed in ((0, 1), (1, 2)):
        options = {"method": "gram", "precision": "float32", "seed": seed}
        states.append(rs.segment(path, part=(part, 2), state=tmp_path / f"{part}", **options))
    with pytest.raises(StateError, match="seed 2 there and 1 here"):
        rs.merge_states(states)
    with pytest.raises(UsageError, match="seed 1 there and 2 here"):
        rs.segment(path, part=(0, 2), state=tmp_path / "0", method="gram", precision="float32", seed=2)
    halves = [absorbed(rows_like(100, 4).astype(np.float64), seed=seed) for seed in (1, 2)]
    with pytest.raises(UsageError, match="probed with seed 2 cannot join those probed with 1"):
        halves[0].merge(halves[1])


def test_a_dump_that_grew_keeps_the_seed_of_its_checkpoint(tmp_path):
    rows = rows_like(300_000, 4)
    options = {"checkpoint": tmp_path / "kept", "workers": 1}
    path = store(tmp_path / "a.zarr", rows[:200_000], chunk=20_000)
    before = measured(path, **options)
    zarr.open_array(path, mode="a").append(rows[200_000:])
    after = measured(path, **options)
    assert after.rows_read == 300_000
    assert after.plan.probe_seed == before.plan.probe_seed
    fresh = measured(path)
    assert fresh.plan.probe_seed != after.plan.probe_seed
    assert fresh.rankme.value == after.rankme.value


def test_a_stream_is_probed_by_the_seed_and_its_first_row():
    rows = rows_like(3000, 12)
    found = measured(iter([rows[:10], rows[10:]]))
    assert found.spectrum.confidence == CONFIDENCE
    assert measured(iter([rows])).plan.probe_seed == found.plan.probe_seed != measured(rows).plan.probe_seed
    assert measured(iter([rows]), seed=3).plan.probe_seed != found.plan.probe_seed
    assert found.rankme.value == measured(rows).rankme.value


@pytest.mark.parametrize("dtype", ["float16", "float32", "int16"])
def test_rows_that_float32_holds_have_the_values_of_float64_panels(dtype):
    rows = (30 * rows_like(20_000, 12)).astype(dtype)
    found, wide = measured(rows), measured(rows.astype(np.float64))
    assert np.array_equal(found.spectrum.singular_values, wide.spectrum.singular_values)


def test_states_that_did_not_probe_every_panel_keep_the_worst_case_and_are_not_gone_on_with(tmp_path):
    state = rs.load_state(OLD)
    found = rs.measure_state(state, tolerance=9.0)
    assert found.spectrum.evidence == "certified"
    assert "an earlier version did not probe every panel" in found.spectrum.grounds
    assert rs.measure_state(rs.merge_states([state, state]), tolerance=9.0).rankme == found.rankme
    rows = np.linalg.svd(rows_like(300, 5, seed=1).astype(np.float64), compute_uv=False)
    assert np.all(found.spectrum.raw.consistent.lower <= rows)
    assert np.all(rows <= found.spectrum.raw.consistent.upper)
    path = store(tmp_path / "golden.zarr", rows_like(300, 5, seed=1))
    shutil.copy(OLD, tmp_path / "old")
    with pytest.raises(UsageError, match="float32 products of an earlier version"):
        measured(path, checkpoint=tmp_path / "old")
