"""A row sketch keeps the laws, is unbiased, says how far it is off, and refuses where it cannot."""

from __future__ import annotations

import json
from itertools import pairwise

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.special import bdtr

import rankme_stream as rs
from rankme_stream.accumulators.row_sketch import folding
from rankme_stream.accumulators.row_sketch.accumulator import RowSketchAccumulator
from rankme_stream.cli.commands import cli
from rankme_stream.errors import ArithmeticCheckError, UsageError
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.devices.host import HOST, Host
from rankme_stream.spectra import extrapolation
from rankme_stream.spectra.estimates import estimate_rankme
from rankme_stream.testing import AccumulatorLaws, with_ones
from tests.dumps import same_bits, store
from tests.result_schema import SCHEMA
from tests.toy_device import TOY

pytestmark = pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")
BLURRED = ("stable_rank", "nesum", "numerical_rank", "condition_number", "alpha_req")


@pytest.mark.parametrize("columns", [4, 256])
@pytest.mark.parametrize("device", [None, TOY], ids=["host", "strict"])
class TestLaws(AccumulatorLaws):
    """The laws of every accumulator."""

    @pytest.fixture(autouse=True)
    def chosen(self, columns, device):
        self.made = lambda n: RowSketchAccumulator(n, Workspace(device) if device else None, sketch_size=columns)

    def make(self, n_features):
        return self.made(n_features)


def gaussian(n_rows: int, spectrum: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_rows, spectrum.size)) * spectrum


def sketched(rows: np.ndarray, columns: int, seed: int, cuts: tuple[int, ...] = ()) -> np.ndarray:
    made = RowSketchAccumulator(rows.shape[1], sketch_size=columns, seed=seed)
    edges = [0, *cuts, len(rows)]
    for start, stop in pairwise(edges):
        made.update(with_ones(rows[start:stop]), start)
    return made.to_arrays()["sketch"]


def measured(source, /, **options) -> rs.Measurement:
    return rs.measure(source, method="row-sketch", tolerance=1e9, **options)


def test_sketch_rows_are_signed_sums_in_which_every_row_counts_once():
    rows = np.eye(3000)[:, :40]
    sketch = sketched(rows, 128, seed=3)[:, 1:]
    assert np.array_equal(np.abs(sketch).sum(axis=0), np.ones(40))  # each of the 40 rows in one place, as it is


def test_no_two_tiles_share_their_random_numbers():
    sketch = sketched(np.eye(2048), 1024, seed=0)[:, 1:]
    signs, places = sketch.sum(axis=0), np.abs(sketch).argmax(axis=0)
    assert np.array_equal(np.abs(signs), np.ones(2048))
    assert abs(signs[:1024] @ signs[1024:]) < 5 * 1024**0.5
    assert (places[:1024] == places[1024:]).mean() < 0.1


@pytest.mark.parametrize("columns", [128, 1024])
def test_where_panels_are_cut_changes_no_bit(columns):
    rows = np.random.default_rng(1).standard_normal((5000, 3))
    whole = sketched(rows, columns, seed=5)
    assert np.array_equal(sketched(rows, columns, seed=5, cuts=(0, 1, 1023, 1024, 2047, 4100)), whole)
    assert not np.array_equal(sketched(rows, columns, seed=6), whole)


def meeting(rows: np.ndarray, run_rows: int) -> float:
    """Mean of |Y'Y - Z'Z|^2 times the rows of the sketch: all pairs of rows in different runs."""
    gram = rows @ rows.T
    apart = np.arange(len(rows))[:, None] // run_rows != np.arange(len(rows))[None, :] // run_rows
    lengths = np.diag(gram)
    return float(((lengths[:, None] * lengths[None, :] + gram**2) * apart).sum())


def test_the_error_has_mean_zero_and_twice_the_variance_once_folded():
    generator = np.random.default_rng(0)
    rows = np.repeat(generator.standard_normal((20, 5)), 30, axis=0) * np.sort(generator.random((600, 1)))
    exact, columns, n_seeds = rows.T @ rows, 128, 800
    errors = []
    for seed in range(n_seeds):
        sketch = sketched(rows, columns, seed)[:, 1:]
        half, quarter = columns // 2, columns // 4
        by_two = sketch[:half] - sketch[half:]
        by_four = by_two[:quarter] + by_two[quarter:]
        errors.append([one.T @ one - exact for one in (sketch, by_two, by_four)])
    errors = np.array(errors)
    wanted = meeting(rows, 4) / columns * np.array([1, 2, 4])  # runs of 128/32 rows
    variances = (errors**2).sum(axis=(2, 3)).mean(axis=0)
    assert np.all(np.abs(variances / wanted - 1.0) < 5.0 * (2.0 / n_seeds) ** 0.5)
    means = (errors.mean(axis=0) ** 2).sum(axis=(1, 2))
    assert np.all(means < 3.0 * wanted / n_seeds)


def test_the_collision_share_is_that_of_the_pairs_that_collide():
    rows = np.random.default_rng(0).standard_normal((900, 4))
    made = RowSketchAccumulator(4, sketch_size=64, seed=1)
    made.update(with_ones(rows), 0)
    lengths, names = (rows**2).sum(axis=1), with_ones(np.eye(900))
    places = RowSketchAccumulator(900, sketch_size=64, seed=1)
    places.update(names, 0)
    place = np.abs(places.to_arrays()["sketch"][:, 1:]).argmax(axis=0)
    found = folding.meetings(made.to_arrays()["energies"], made.weight, seed=1)

    def share(place: np.ndarray) -> float:
        meet = place[:, None] == place[None, :]
        np.fill_diagonal(meet, False)
        return float(lengths @ meet @ lengths / lengths.sum() ** 2)

    # Where a row of the sketch went is read off a folding of one in which each row is its own name.
    names, turned = np.eye(64), []

    def solve(folded: np.ndarray) -> np.ndarray:
        turned.append(np.abs(folded).argmax(axis=0))
        return np.zeros(1)

    folding.folded(names, HOST, 1, solve)
    assert len(turned) == 8 * 2 + 4
    assert len({tuple(one) for one in turned}) == 8 + 1  # other rows meet in every pair
    for one in turned[:-4]:
        first, second = one.argsort(kind="stable").reshape(32, 2).T
        apart = np.minimum((first - second) % 64, (second - first) % 64)
        assert apart.min() >= 2  # rows of one run do not
    wanted = share(place), np.mean([share(one[place]) for one in turned[:-4]]), share(turned[-1][place])
    assert found == pytest.approx(wanted, rel=1e-12)


def test_extrapolation_is_exact_for_a_quadratic_in_the_collision_share():
    def number(x: float, noise: float = 0.0) -> np.ndarray:
        return np.array([3.0 - 2.0 * x - 5.0 * x**2 + noise])

    def told(noise: float, confidence: float = 0.95):
        x = (0.1, 0.19, 0.37)
        halves = tuple((number(x[1], noise), number(x[1], -noise)) for _ in range(8))
        folds = extrapolation.FoldedSketches(halves, (number(x[2]),) * 4, x, 0.0)
        return folds.extrapolate(number(x[0]), lambda values: float(values[0]), extrapolation.IDENTITY, 1, confidence)

    value, lower, upper, _ = told(0.0)
    line = number(0.1)[0] + (number(0.1) - number(0.19))[0] * 0.1 / 0.09
    assert value == pytest.approx(3.0, rel=1e-12)
    assert (lower, upper) == pytest.approx((min(3.0, line), max(3.0, line)), rel=1e-12)
    _, lower, upper, _ = told(0.01)
    off = 2.3646242515927844 * 0.01 * (0.1 / 0.09) ** 0.5  # t with 7 degrees of freedom
    assert (lower, upper) == pytest.approx((min(3.0, line) - off, max(3.0, line) + off), rel=1e-9)
    halves = [(number(0.19, 0.02 * pair), number(0.19, 0.02 * pair)) for pair in range(-4, 4)]  # that differ by pairs
    folds = extrapolation.FoldedSketches(tuple(halves), (number(0.37),) * 4, (0.1, 0.19, 0.37), 0.0)
    _, lower, upper, _ = folds.extrapolate(
        number(0.1), lambda values: float(values[0]), extrapolation.IDENTITY, 1, 0.95
    )
    assert upper - lower > 2 * 2.36 * 0.02 * 6.0**0.5 * 2.0**0.5  # 6 is the variance of the integers -4 to 3
    _, lower, upper, _ = told(0.01, 0.5)
    assert upper - lower < abs(3.0 - line) + off


@pytest.mark.parametrize(
    "scale",
    [extrapolation.IDENTITY, extrapolation.LOGARITHM, extrapolation.RECIPROCAL, extrapolation.ISOSCORE_RECIPROCAL],
)
def test_scales_lead_back(scale):
    for value in (0.3, 1.0, 7.0):
        assert scale.inverse(scale.forward(value, 9), 9) == pytest.approx(value, rel=1e-14)


def test_most_intervals_hold():
    k = np.arange(1.0, 17)
    is_rare = (np.random.default_rng(1).random((3000, 1)) < 0.01) == (k > 8)  # half of the directions
    few = gaussian(3000, np.where(k > 8, 3.0, 1.0)) * is_rare
    for rows in (gaussian(3000, k**-0.5), np.sort(gaussian(3000, 1 / k), axis=0) + 1.0, few):
        exact = rs.measure(rows, normalize=True)
        held = dict.fromkeys(("rankme", "effective_rank", "centered_rankme", "participation_ratio", "isoscore",
                              "variance_effective_rank", "vendi", "self_cluster"), 0)  # fmt: skip
        n_seeds = 40
        for seed in range(n_seeds):
            found = measured(rows, seed=seed, normalize=True)
            for name in held:
                mine, theirs = (one.estimates | one.normalized for one in (found, exact))
                held[name] += mine[name].lower <= theirs[name].value <= mine[name].upper
        for name, count in held.items():
            assert bdtr(count, n_seeds, 0.94) > 1e-3, (name, count)


def test_metrics_of_single_singular_values_have_no_value_and_the_others_hold():
    rows = gaussian(9000, np.arange(1.0, 13) ** -0.5)
    found, exact = measured(rows, normalize=True), rs.measure(rows, normalize=True)
    for name, one in (found.estimates | found.presets | found.normalized).items():
        if name in BLURRED:
            assert one.value is None
            assert "single singular values" in one.reason
            continue
        assert one.covers == ("arithmetic", "approximation")
        assert one.confidence == 0.95
        assert one.lower <= one.value <= one.upper
    sums = found.normalized["cosine_anisotropy"]  # of sums, which are counted exactly
    assert sums.half_width < 1e-9
    assert sums.value == pytest.approx(exact.normalized["cosine_anisotropy"].value, abs=1e-12)
    told = found.to_dict()["spectrum"]
    assert told["kind"] == "sketch"
    assert np.square(told["singular_values"]).sum() == pytest.approx((rows**2).sum(), rel=1e-12)
    dense = np.linalg.svd(rows, compute_uv=False)
    assert np.all(np.array(told["lower"]) <= dense) and np.all(dense <= np.array(told["upper"]))
    assert "shown by simulation" in told["grounds"]
    assert measured(rows, confidence=0.5).rankme.half_width < 0.7 * found.rankme.half_width
    assert measured(rows, rank=1024).rankme.half_width < found.rankme.half_width


def test_rows_of_any_scale_give_the_same_estimates():
    rows = gaussian(3000, np.arange(1.0, 9) ** -1.0)
    wanted = measured(rows)
    assert wanted.rankme.value is not None
    for scale in (2.0**300, 2.0**-300, 2.0**-400, 2.0**-500, 2.0**-700, 2.0**-960):
        found = measured(rows * scale)
        for name, one in found.estimates.items():
            assert one.reason == wanted[name].reason
            if one.value is not None:
                assert (one.value, one.lower, one.upper) == pytest.approx(
                    (wanted[name].value, wanted[name].lower, wanted[name].upper), rel=1e-9
                )


def test_a_state_without_exponent_whose_squares_underflow_gives_no_number():
    """As an earlier version wrote it: it did not multiply tiny rows."""
    whole = RowSketchAccumulator(8, sketch_size=256)
    whole.update(with_ones(gaussian(3000, np.ones(8)) * 2.0**-300), 0)
    arrays = whole.to_arrays()
    assert arrays["exponent"] == 480
    arrays |= {name: np.ldexp(arrays[name], -1300) for name in ("energies", "weight")}
    arrays |= {name: np.ldexp(arrays[name], -650) for name in ("sketch", "sums")}
    del arrays["exponent"]
    reason = estimate_rankme(type(whole).from_arrays(arrays).spectrum(unit_roundoff=2.0**-53)).reason
    assert "underflow" in reason


def test_a_few_giant_rows_are_refused():
    rows = gaussian(4000, np.ones(8))
    rows[::500] *= 50.0
    found = measured(rows)
    assert found.rankme.value is None
    assert "carry the weight of 11 of equal length" in found.rankme.reason
    assert "read them with method gram" in found.rankme.reason
    assert not found.tolerance_met
    found = measured(rows + 1e4)  # of equal length, and not about their mean
    assert found.rankme.value is not None
    assert "about the mean" in found["centered_rankme"].reason


def test_too_few_rows_are_refused_before_they_are_read(tmp_path):
    path = store(tmp_path / "few.zarr", gaussian(1023, np.ones(4)), chunk=100)
    for refused in (
        lambda: measured(path),
        lambda: rs.plan(path, method="row-sketch"),
        lambda: rs.segment(path, part=(0, 2), state=tmp_path / "state", method="row-sketch"),
        lambda: measured(gaussian(5000, np.ones(4)), rows=(1, 1024)),
    ):
        with pytest.raises(UsageError, match="1,023 rows are too few for a row sketch of 256, which needs 1,024"):
            refused()
    blocks = measured(iter([gaussian(1000, np.ones(4))]))
    assert "a sketch of 256 rows needs 1,024" in blocks.rankme.reason


def test_options_that_do_not_fit_are_refused():
    rows = gaussian(2000, np.ones(40))
    for options, text in (
        ({"rank": 319}, "a row sketch of 319 rows gives no interval for 40 features: rank=320"),
        ({"dims": (3,)}, "leave dims out"),
        ({"sample": True}, "leave sample and population out"),
        ({"precision": "float32"}, "float64 only"),
    ):
        with pytest.raises(UsageError, match=text):
            measured(rows, **options)
    with pytest.raises(UsageError, match="seed 0"):
        RowSketchAccumulator(5, sketch_size=8, seed=1).merge(RowSketchAccumulator(5, sketch_size=8, seed=0))


def test_the_answer_does_not_follow_chunks_workers_or_parts(tmp_path):
    rows = np.random.default_rng(2).standard_normal((40_000, 16)).astype(np.float16)
    paths = [store(tmp_path / f"{n}.zarr", rows, chunk=n) for n in (1000, 17_001)]
    whole = measured(paths[0], workers=1)
    assert len(whole.plan.all_segments) > 3
    assert same_bits(measured(paths[1], workers=3), whole)
    assert same_bits(measured(iter(np.array_split(rows, 5))), whole)
    assert same_bits(measured(paths[0], checkpoint=tmp_path / "kept"), whole)
    for part in (2, 0, 1):
        rs.segment(paths[0], part=(part, 3), state=tmp_path / f"{part}", method="row-sketch")
    again = rs.merge_states([rs.load_state(tmp_path / f"{part}") for part in (0, 1, 2)])
    assert same_bits(rs.measure_state(again, tolerance=1e9), whole)
    assert rs.measure_state(again, tolerance=1e9, confidence=0.5).rankme.upper < whole.rankme.upper
    other = measured(paths[0], seed=1)
    assert other.rankme.value != whole.rankme.value
    assert other.plan.seed == 1


def test_the_command_states_it(tmp_path):
    path = store(tmp_path / "a.zarr", gaussian(3000, np.arange(1.0, 9) ** -0.5), chunk=100)
    options = ["--method", "row-sketch", "--rank", "300", "--tolerance", "1", "--quiet", "--json", "-"]
    done = CliRunner().invoke(cli, ["score", str(path), *options])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    jsonschema.validate(told, SCHEMA)
    assert told["plan"]["columns"] == 300
    assert told["estimates"]["rankme"]["details"]["sketch"] < told["estimates"]["rankme"]["value"]


def test_features_that_are_zero_and_rows_that_are_zero_or_of_one_direction():
    rows = gaussian(2000, np.ones(6))
    rows[:, [1, 4]] = 0.0
    found = measured(rows)
    assert np.array_equal(found.spectrum.singular_values[-2:], [0.0, 0.0])
    exact = rs.measure(rows)["effective_rank"].value
    assert found["effective_rank"].lower <= exact <= found["effective_rank"].upper
    assert measured(np.zeros((2000, 3))).rankme.reason == "all singular values are zero"
    generator = np.random.default_rng(0)
    for _ in range(5):  # what is left of the other values is rounding
        line = measured(np.outer(generator.standard_normal(4000), generator.standard_normal(5)))["effective_rank"]
        assert line.lower <= 1.0 <= line.upper
        assert line.half_width < 1e-3


def test_eigenvalues_that_do_not_add_up_are_an_error(monkeypatch):
    solve = Host.eigenvalues
    monkeypatch.setattr(Host, "eigenvalues", lambda self, lower: solve(self, lower) * 1.001)
    with pytest.raises(ArithmeticCheckError, match="the trace is"):
        measured(gaussian(2000, np.ones(6)))
