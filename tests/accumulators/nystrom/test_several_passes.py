"""Several passes of the randomized SVD: bounds from probes are true, closer, and the same under any schedule."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import rankme_stream as rs
from rankme_stream.accumulators.nystrom import complement_bounds
from rankme_stream.accumulators.nystrom.accumulator import NystromAccumulator
from rankme_stream.accumulators.nystrom.test_vectors import PROBES, LaterPass, OrthonormalBasis, TestVectors
from rankme_stream.cli.commands import cli
from rankme_stream.errors import ArithmeticCheckError, LimitError, UsageError
from rankme_stream.measuring import pass_runner
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.passes.engines.engine import Progress
from rankme_stream.results.table import table
from rankme_stream.spectra import intervals, majorization
from rankme_stream.spectra.metrics import effective_rank
from rankme_stream.spectra.spectrum import ConsistentSet, Tail
from rankme_stream.testing import matrix_with_spectrum
from tests.dumps import same_bits, store
from tests.interruptions import Stop
from tests.interval_metrics import METRICS
from tests.planted_spectra import spectra

pytestmark = pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")
SKETCH = {"method": "rsvd", "rank": 10, "oversampling": 2, "passes": 3, "tolerance": 1e-9}


def check(found: rs.Measurement, exact: rs.Measurement) -> None:
    for mine, theirs in ((found.estimates, exact.estimates), (found.normalized, exact.normalized)):
        for metric, one in mine.items():
            true = theirs[metric]
            if one.lower is None or true.lower is None:
                assert one.reason or true.reason
                continue
            assert one.lower <= true.upper, metric
            assert true.lower <= one.upper, metric
            assert one.value is None or one.lower <= one.value <= one.upper, metric


@pytest.mark.parametrize("name", spectra(160))
def test_intervals_hold_every_metric(name):
    rows = matrix_with_spectrum(spectra(160)[name], n_rows=900, n_features=160, seed=1) + 0.001
    exact = rs.measure(rows, method="tsqr", normalize=True, tolerance=1.0)
    for passes in (2, 3):
        found = rs.measure(rows, normalize=True, **SKETCH | {"passes": passes})
        check(found, exact)
        for preset, one in found.presets.items():
            assert one.lower <= exact.presets[preset].upper, preset
            assert exact.presets[preset].lower <= one.upper, preset
        assert found.plan.pass_number == passes - 1 or found.tolerance_met
        assert found.rankme.confidence == 1.0 - complement_bounds.CHANCE
        assert found.spectrum.evidence == "measured"


@pytest.mark.parametrize("shape", [(9, 24), (24, 24), (300, 24), (2, 8), (70, 300)])
def test_rows_of_any_shape_and_scale_are_held(shape):
    rows = np.random.default_rng(3).standard_normal(shape) ** 3 + 0.2
    exact = rs.measure(rows, method="tsqr", tolerance=1.0)
    for scale in (1.0, 2.0**300, 2.0**-300):
        check(rs.measure(rows * scale, **SKETCH | {"rank": 3, "oversampling": 1}), exact)


def test_more_passes_narrow_the_interval_and_the_value_converges():
    singular_values = np.arange(1.0, 401) ** -0.5
    rows = matrix_with_spectrum(singular_values, n_rows=1200, n_features=400)
    options = {"method": "rsvd", "rank": 100, "tolerance": 1e-9}
    found = [rs.measure(rows, passes=passes, **options).rankme for passes in (1, 2, 3)]
    widths = [one.upper - one.lower for one in found]
    assert widths[0] > 1.5 * widths[1] > 1.5 * 1.2 * widths[2], widths
    assert found[2].value == pytest.approx(effective_rank(singular_values), rel=0.02)
    assert found[0].value != pytest.approx(effective_rank(singular_values), rel=0.02)


def test_passes_end_where_the_tolerance_is_met():
    rows = matrix_with_spectrum(np.array([3.0, 2.0, 1.0]), n_rows=800, n_features=64)
    found = rs.measure(rows, method="rsvd", rank=20, passes=4, tolerance=0.1)
    assert found.plan.pass_number == 0
    assert len(found.passes) == 1


class TestLimits:
    """The limits from probes fail as seldom as they say, for the matrices that make it hardest."""

    @pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0], [1.0, 0.9, 0.1], [1.0] + [0.3] * 40, [1.0] * 60])
    def test_they_fail_as_seldom_as_they_say(self, weights):
        eigenvalues, count, n_draws = np.array(weights), 8, 2000
        generator = np.random.default_rng(len(weights))
        failed = 0
        for _ in range(n_draws):
            images = eigenvalues[:, None] * generator.standard_normal((eigenvalues.size, count))
            mean_square = float((images**2).sum()) / count
            largest, most = complement_bounds.limits(mean_square, float(np.linalg.norm(images, 2)) ** 2, count, 0.2)
            failed += largest < eigenvalues.max() or most < (eigenvalues**2).sum()
        assert failed <= 0.2 * n_draws
        if len(weights) == 1:
            assert failed > 0  # where the first of both bounds is sharp

    def test_many_equal_eigenvalues_are_bounded_closely(self):
        images = np.random.default_rng(0).standard_normal((500, PROBES))
        mean_square, top_square = float((images**2).sum()) / PROBES, float(np.linalg.norm(images, 2)) ** 2
        _, most = complement_bounds.limits(mean_square, top_square, PROBES, complement_bounds.CHANCE)
        assert 500.0 <= most <= 1.25 * 500.0

    def test_images_of_zero_give_limits_of_zero(self):
        assert complement_bounds.limits(0.0, 0.0, PROBES, complement_bounds.CHANCE) == (0.0, 0.0)

    @pytest.mark.parametrize("squares", [(np.inf, 1.0), (1.0, np.inf), (np.nan, 1.0), (1.0, np.nan)])
    def test_squares_that_are_not_finite_have_no_limit_and_are_not_searched_for_one(self, squares):
        with pytest.raises(ArithmeticCheckError, match="images of probes are not finite"):
            complement_bounds.limits(*squares, PROBES, complement_bounds.CHANCE)


def tail_set(generator: np.random.Generator, m: int) -> tuple[np.ndarray, ConsistentSet]:
    """A spectrum and a set that holds it, with a bound on the fourth powers of its tail."""
    true = np.sort(generator.random(m) ** generator.choice([0.1, 1.0, 5.0]))[::-1].copy()
    true[int(generator.integers(1, m + 1)) :] *= generator.choice([0.0, 1e-3, 0.5, 1.0])
    start = int(generator.integers(0, m))
    seen = int(generator.integers(start, m + 1))
    lower = np.where(np.arange(m) < seen, true * generator.choice([1.0, 0.99, 0.5]), 0.0)
    upper = np.full(m, true[0] * generator.choice([1.0, 1.3, 3.0]))
    upper[:start] = true[:start] * generator.choice([1.0, 1.01, 1.5])
    upper[start:] = np.minimum(upper[start:], true[start] * generator.choice([1.0, 1.5, 4.0]) + 1e-12)
    upper = np.maximum(np.minimum.accumulate(upper), true)
    energy = float((true**2).sum())
    slack = float(generator.choice([1e-12, 1e-3]))
    norm = float(np.linalg.norm(true[start:] ** 2)) * generator.choice([1.0 + 1e-9, 1.05, 1.7]) + 1e-150
    return true, ConsistentSet(lower, upper, (energy * (1 - slack), energy * (1 + slack)), Tail(start, norm))


@pytest.mark.parametrize("m", [1, 2, 5, 24, 90])
def test_no_allowed_spectrum_is_outside(m, monkeypatch):
    if m == 90:  # and where not every head is looked at
        monkeypatch.setattr(majorization, "_MAX_HEADS", 16)
    for seed in range(60):
        generator = np.random.default_rng([seed, m])
        true, box = tail_set(generator, m)
        for name, (extremes, metric) in METRICS.items():
            if box.lower[0] == 0.0:
                continue
            low, high = extremes(box)
            value = metric(true)
            slack = 1e-9 * min(abs(value), 1e9) + 1e-12
            assert low - slack <= value <= high + slack, name


def test_a_known_tail_brings_the_lower_end_near_that_of_a_true_spectrum():
    head, tail = np.arange(1.0, 101) ** -0.25, np.full(300, 0.05)
    for count in (300, 60):  # a tail that is flat, and one of which fewer hold as much
        rest = np.zeros(300)
        rest[:count] = tail[0] * np.sqrt(300 / count)
        true = np.concatenate([head, rest])
        energy = float((true**2).sum())
        lower = np.concatenate([head, np.zeros(300)])
        upper = np.concatenate([head, np.full(300, 0.12)])
        box = ConsistentSet(lower, upper, (energy, energy), Tail(100, float(np.linalg.norm(rest**2))))
        least, most = intervals.entropy_rank(box)
        assert least <= effective_rank(np.sort(true)[::-1]) <= most
        assert least > 0.97 * effective_rank(np.sort(true)[::-1])  # which is the least: no tail is more packed


def test_probes_are_new_in_every_pass_and_the_same_on_every_machine():
    first, second = (
        TestVectors(1500, PROBES, 0, pass_number, OrthonormalBasis(np.zeros((0, 1500)))).on(HOST)[1:, 1:]
        for pass_number in (1, 2)
    )
    assert not np.any(first == second)
    scale = TestVectors(1500, PROBES, 0, 1).probe_scale
    assert (first / scale).std() == pytest.approx(1.0, abs=0.02)
    whole = TestVectors(4000, PROBES, 0, 1, OrthonormalBasis(np.zeros((0, 4000))))
    assert np.array_equal(whole.on(HOST)[1:, 1:1025] / whole.probe_scale, first[:, :1024] / scale)


class TestSchedules:
    """The same bits for any chunks, workers, engine, and whenever it was interrupted."""

    rows = (np.random.default_rng(2).standard_normal((200_000, 40)) * np.arange(1, 41) ** -0.5).astype(np.float16)
    options = SKETCH | {"rank": 5, "tolerance": 1e-15}  # no pass meets that

    def whole(self, folder, chunk=1000):
        return rs.measure(store(folder / f"{chunk}.zarr", self.rows, chunk=chunk), workers=1, **self.options)

    def test_chunks_and_workers(self, tmp_path):
        whole = self.whole(tmp_path)
        assert len(whole.plan.all_segments) > 3
        assert [one.get("turn", 0) for one in whole.passes] == [0, 1, 2]
        other = store(tmp_path / "other.zarr", self.rows, chunk=70_001)
        assert same_bits(rs.measure(other, workers=3, **self.options), whole)
        assert rs.measure(other, seed=1, **self.options).rankme.lower != whole.rankme.lower

    @pytest.mark.parametrize("share", [0.2, 0.5, 1.2, 1.8, 2.0, 2.9])
    def test_a_pass_goes_on_where_it_was_stopped(self, share, tmp_path):
        whole = self.whole(tmp_path)
        path, kept = tmp_path / "1000.zarr", tmp_path / "kept.state"
        last, seen = 0, 0

        def stop(now: Progress) -> None:
            nonlocal last, seen
            seen += now.rows_done - last if now.rows_done >= last else now.rows_done
            last = now.rows_done
            if seen >= share * len(self.rows):
                raise Stop

        with pytest.raises(Stop):
            rs.measure(path, workers=1, checkpoint=kept, progress=stop, **self.options)
        held = rs.load_state(kept)
        assert held.plan.pass_number == (0 if share < 1 else 1 if share < 2 else held.plan.pass_number)
        assert (held.basis is None) == (held.plan.pass_number == 0)
        again = rs.measure(path, workers=2, checkpoint=kept, **self.options)
        assert same_bits(again, whole)
        assert [one.get("turn", 0) for one in again.passes] == [0, 1, 2]
        assert same_bits(rs.measure(path, checkpoint=kept, **self.options), whole)  # nothing is left to read
        assert same_bits(rs.measure_state(rs.load_state(kept), tolerance=1e9), whole)
        with pytest.raises(UsageError, match="holds pass 3, and passes is 2: give passes=3 or more"):
            rs.measure(path, checkpoint=kept, **self.options | {"passes": 2})

    def test_a_state_of_another_basis_is_refused(self, tmp_path):
        self.whole(tmp_path)
        path, kept = tmp_path / "1000.zarr", tmp_path / "kept.state"
        rs.measure(path, checkpoint=kept, **self.options)
        with pytest.raises(UsageError, match="seed 0 there and 1 here"):
            rs.measure(path, checkpoint=kept, seed=1, **self.options)
        state = rs.load_state(kept)
        other = replace(state, plan=replace(state.plan, basis="f" * 32))
        with pytest.raises(rs.RankMeError, match=r"basis f+ there"):
            rs.merge_states([state, other])

    def test_dask(self, tmp_path):
        whole = self.whole(tmp_path)
        found = rs.measure(tmp_path / "1000.zarr", engine="dask", workers=2, **self.options)
        assert same_bits(found, whole)


def test_options_that_do_not_go_together_are_refused():
    rows = np.random.default_rng(0).standard_normal((500, 40))
    for options, text in (
        ({"method": "gram", "passes": 2}, "method gram makes one pass"),
        ({"method": "frequent-directions", "passes": 2}, "makes one pass"),
        ({"method": "rsvd", "passes": 0}, "at least 1"),
    ):
        with pytest.raises(UsageError, match=text):
            rs.measure(rows, **options)
    with pytest.raises(UsageError, match="leave out sample, population, rows, passes"):
        rs.measure(iter([rows]), method="rsvd", rank=4, passes=2)
    planned = rs.plan(rows, method="rsvd", rank=4, passes=2)
    assert planned.sketch_size == 4 + 10 + PROBES
    with pytest.raises(LimitError):  # before a row is read
        rs.measure(rows, method="rsvd", rank=4, passes=2, memory_limit=planned.predicted_peak_bytes // 2)


def test_the_command_takes_several_passes(tmp_path):
    store(tmp_path / "a.zarr", np.random.default_rng(0).standard_normal((500, 90)))
    sketch = ["--method", "rsvd", "--rank", "8", "--passes", "2"]
    result = CliRunner().invoke(
        cli, ["score", str(tmp_path / "a.zarr"), *sketch, "--tolerance", "0.01", "--json", "-", "--quiet"]
    )
    assert result.exit_code == 4
    document = json.loads(result.stdout)
    assert document["spectrum"]["kind"] == "floor"
    assert document["spectrum"]["tail"]["norm"] > 0.0
    assert document["plan"]["turn"] == 1
    likely = f"RankMe is {document['estimates']['rankme']['value']:.4g} if the values not seen fall as a power"
    assert likely in table(document)
    assert document["estimates"]["rankme"]["confidence"] == 1.0 - complement_bounds.CHANCE


@pytest.mark.parametrize("m", [1, 2, 3, 7, 24])
def test_the_first_few_and_every_epsilon_are_held(m):
    """A preset takes the first values alone, of whose energy loose ceilings say nothing."""
    for seed in range(60):
        generator = np.random.default_rng([seed, m, 1])
        true, box = tail_set(generator, m)
        count = int(generator.integers(1, m + 1))
        first = box.first(count)
        if first.lower[0] == 0.0:
            continue
        for eps in (0.0, 1e-7, 1e-3):
            p = true[:count] ** 2 / (true[:count] ** 2).sum() + eps
            low, high = intervals.entropy_rank(first, eps=eps, squares=True)
            value = float(np.exp(-(p * np.log(np.where(p > 0.0, p, 1.0))).sum()))
            assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


@pytest.mark.parametrize("passes", [1, 3])
def test_the_smallest_and_largest_rows_are_scored(passes):
    rows = np.random.default_rng(0).standard_normal((200, 60))
    plain = rs.measure(rows, **SKETCH | {"passes": passes}).rankme
    for scale in (2.0**-515, 2.0**-530, 2.0**470):
        found = rs.measure(rows * scale, **SKETCH | {"passes": passes}).rankme
        assert found.lower <= plain.upper and plain.lower <= found.upper
        if scale > 1.0:
            assert found.value == pytest.approx(plain.value, rel=1e-9)


def test_a_second_pass_that_finds_no_memory_leaves_the_first(monkeypatch):
    rows = np.random.default_rng(0).standard_normal((400, 100))
    whole = rs.measure(rows, **SKETCH | {"passes": 1})
    plan = pass_runner.PassRunner._plan

    def short(self, engine, workload, rows, held_bytes):
        if workload.pass_number and self.passes:
            raise LimitError("the pass needs more")
        return plan(self, engine, workload, rows, held_bytes)

    monkeypatch.setattr(pass_runner.PassRunner, "_plan", short)
    with pytest.warns(rs.ToleranceWarning, match="the next arithmetic was not tried: the pass needs more"):
        found = rs.measure(rows, **SKETCH)
    assert same_bits(found, whole)


def test_sketches_of_two_bases_do_not_join():
    bases = [
        OrthonormalBasis(np.linalg.qr(np.random.default_rng(seed).standard_normal((20, 3)))[0].T) for seed in (0, 1)
    ]
    one, other = (NystromAccumulator(20, sketch_size=3 + PROBES, later=LaterPass(1, basis)) for basis in bases)
    with pytest.raises(UsageError, match="two different bases"):
        one.merge(other)
