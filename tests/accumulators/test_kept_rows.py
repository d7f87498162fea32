"""Fewer rows than features: the rows are kept, and the interval holds the singular values of the rows."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.accumulators.row_gram import RowGramAccumulator
from rankme_stream.accumulators.row_qr import RowQrAccumulator
from rankme_stream.cli.commands import main
from rankme_stream.errors import ArithmeticCheckError, SourceError, ToleranceWarning, UsageError
from rankme_stream.testing import AccumulatorLaws, matrix_with_spectrum, with_ones
from tests.dumps import rows_like, same_bits, store
from tests.interruptions import stopped

U = 2.0**-53
KINDS = [RowGramAccumulator, RowQrAccumulator]
SHAPES = [(1, 5), (1, 1), (2, 3), (7, 9), (8, 9), (9, 9), (40, 41), (30, 1500), (70, 1100), (12, 5)]
SPECTRA = {
    "flat": lambda m: np.ones(m),
    "twelve orders": lambda m: 10.0 ** -np.linspace(0.0, 12.0, m),
    "collapsed": lambda m: np.where(np.arange(m) < 3, 1.0, 1e-9),
    "rank 3": lambda m: np.where(np.arange(m) < 3, 1.0, 0.0),
}


def spectrum_of(kind, *pieces: np.ndarray, rows_error: float = 0.0):
    found = kind(pieces[0].shape[1], rows_error=rows_error)
    for piece in pieces:
        found.update(with_ones(piece), 0)
    return found.spectrum(unit_roundoff=U)


def dense(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Singular values, raw and centred, by numpy, and their relative error; the mean is subtracted in long double."""
    exact = rows.astype(np.longdouble)
    centered = (exact - exact.mean(axis=0)).astype(np.float64)
    values = [np.linalg.svd(one, compute_uv=False) for one in (rows, centered)]
    return values[0], values[1], 8.0 * max(rows.shape) * U


def assert_holds(spectrum, rows: np.ndarray) -> None:
    raw, centered, slack = dense(rows)
    for side, values in ((spectrum.raw, raw), (spectrum.centered, centered)):
        room = slack * values[0] + U * abs(rows).max()  # what rounding the centred rows to double may cost
        assert side.values.shape == values.shape
        assert (side.consistent.lower <= values + room).all()
        assert (side.consistent.upper >= values - room).all()
        assert (side.consistent.lower <= side.values).all() and (side.values <= side.consistent.upper).all()
        assert (np.diff(side.values) <= 0.0).all()
    norm = float(np.linalg.norm(rows.sum(axis=0)))
    assert spectrum.row_sum[0] <= norm * (1.0 + 1e-12) and spectrum.row_sum[1] >= norm * (1.0 - 1e-12)


@pytest.mark.parametrize("kind", KINDS)
class TestLaws(AccumulatorLaws):
    """The laws of every accumulator, also where there are more rows than features."""

    @pytest.fixture(autouse=True)
    def chosen(self, kind):
        self.kind = kind

    def make(self, n_features):
        return self.kind(n_features)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SPECTRA)
def test_the_boxes_hold_the_singular_values_of_any_spectrum(kind, shape, name):
    n_rows, n_features = shape
    rows = matrix_with_spectrum(SPECTRA[name](min(shape)), n_rows=n_rows, n_features=n_features)
    assert_holds(spectrum_of(kind, rows), rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mean", [1.0, 1e4, 1e8])
def test_a_mean_far_larger_than_the_spread_widens_the_centred_box_by_its_rounding_alone(kind, mean):
    rows = matrix_with_spectrum(np.arange(1.0, 41.0) ** -0.5, n_rows=40, n_features=1200) + mean
    spectrum = spectrum_of(kind, rows)
    assert_holds(spectrum, rows)
    side = spectrum.centered
    of_spread = 1e-6 + 1e4 * U * float(spectrum.raw.values[0])  # the products alone would add 1e3 u |Z|^2
    assert (side.consistent.upper - side.consistent.lower)[0] < of_spread


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exponent", [-1000, -600, -300, 0, 400])
def test_a_power_of_two_changes_nothing_but_the_scale(kind, exponent):
    rows = np.random.default_rng(3).standard_normal((20, 90))
    wanted, found = spectrum_of(kind, rows), spectrum_of(kind, np.ldexp(rows, exponent))
    assert np.allclose(np.ldexp(found.raw.values, -exponent), wanted.raw.values, rtol=1e-12)
    assert np.ldexp(found.raw.consistent.lower, -exponent)[-1] > 0.9 * wanted.raw.values[-1]
    assert_holds(found, np.ldexp(rows, exponent)) if exponent > -600 else None


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_zeros_and_features_of_zeros_give_exact_zeros(kind):
    rows = np.random.default_rng(4).standard_normal((20, 90))
    rows[[0, 7, 19]] = 0.0
    spectrum = spectrum_of(kind, rows)
    assert_holds(spectrum, rows)
    assert not spectrum.raw.consistent.upper[-3:].any() and not spectrum.centered.consistent.upper[-3:].any()
    assert spectrum.raw.consistent.lower[-4] > 0.0
    rows[:, 5:] = 0.0
    spectrum = spectrum_of(kind, rows)
    assert not spectrum.raw.consistent.upper[5:].any()
    nothing = spectrum_of(kind, np.zeros((4, 9)))
    assert not nothing.raw.consistent.upper.any() and not nothing.centered.consistent.upper.any()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_all_the_same_have_one_direction_and_no_spread(kind):
    rows = np.tile(np.random.default_rng(5).standard_normal(200), (30, 1))
    spectrum = spectrum_of(kind, rows)
    assert spectrum.raw.values[0] == pytest.approx(np.linalg.norm(rows), rel=1e-12)
    assert not spectrum.centered.consistent.lower.any()
    assert spectrum.centered.consistent.upper[0] < 1e-6 * spectrum.raw.values[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_do_not_depend_on_how_rows_arrive(kind):
    rows = np.random.default_rng(6).standard_normal((520, 530))  # products of two blocks, for threads to share
    whole = spectrum_of(kind, rows)
    parts = spectrum_of(kind, rows[:1], rows[1:333], rows[333:])
    one, other = kind(530), kind(530)
    one.update(with_ones(rows[:450]), 0)
    other.update(with_ones(rows[450:]), 450)
    for found in (parts, one.merge(other).spectrum(unit_roundoff=U)):
        assert found.raw.values.tobytes() == whole.raw.values.tobytes()
        assert found.centered.consistent.upper.tobytes() == whole.centered.consistent.upper.tobytes()


def test_the_error_of_the_rows_given_enters_the_boxes():
    rows = np.random.default_rng(7).standard_normal((9, 30))
    for kind in KINDS:
        sharp, blunt = spectrum_of(kind, rows), spectrum_of(kind, rows, rows_error=1e-6)
        for side in ("raw", "centered"):
            shift = 1e-6 * np.linalg.norm(rows)
            one, other = getattr(sharp, side).consistent, getattr(blunt, side).consistent
            assert ((other.upper - one.upper)[:-1] > 0.5 * shift).all()


def test_products_that_are_not_the_rows_are_found_out(monkeypatch):
    rows = np.random.default_rng(8).standard_normal((9, 30))
    with pytest.raises(ArithmeticCheckError, match="not finite"):
        spectrum_of(RowGramAccumulator, np.full((3, 8), 2.0**511))
    monkeypatch.setattr(
        "rankme_stream.numerics.devices.host.tridiagonal_eigenvalues", lambda diagonal, beside: diagonal[::-1] * 1.001
    )
    with pytest.raises(ArithmeticCheckError, match="BLAS, LAPACK or the machine is at fault"):
        spectrum_of(RowGramAccumulator, rows)


def test_auto_keeps_the_rows_where_there_are_fewer_than_features_and_says_what_bounds_rankme():
    rows = rows_like(40, 60)
    few, square = rs.measure(rows), rs.measure(rows[:, :40])
    assert (few.method, square.method) == ("row-gram", "gram")
    assert "RankMe, but for its epsilon, is at most 40, the number of rows" in few.to_dict()["remarks"][0]
    assert "RankMe, but for its epsilon, is at most 40, the number of rows" in str(few)
    assert square.to_dict()["remarks"] == []
    assert few.spectrum.evidence == "certified"
    assert few.rankme.lower <= rs.metrics.rankme(dense(rows.astype(float))[0]) <= few.rankme.upper
    assert rs.measure(rows, method="gram").method == "gram"
    assert rs.measure(rows, precision="auto").method == "row-gram"
    assert rs.measure(rows, precision="float32", tolerance=1).method == "gram"
    assert rs.plan(rows).method == "row-gram"
    with pytest.raises(UsageError, match="method is 'row-gram' and must be one of auto, gram, tsqr, rsvd"):
        rs.measure(rows, method="row-gram")


@pytest.fixture
def short(monkeypatch):
    """Segments of 16 rows of 120 features, as they are of rows a thousand times as wide."""
    for name in ("_PANEL_VALUES", "_SEGMENT_VALUES"):
        monkeypatch.setattr(f"rankme_stream.accumulators.kept_rows.{name}", 2**11)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_metric_is_right_and_the_same_for_any_number_of_workers(short, tmp_path, workers):
    rows = rows_like(90, 120)
    rows[5], rows[70, 3] = 0.0, np.nan
    path = store(tmp_path / "a.zarr", rows, chunk=40)
    options = {"normalize": True, "dims": (7, 80, 100), "nonfinite": "skip", "workers": workers}
    found, wanted = rs.measure(path, **options), rs.measure(rows, **options | {"workers": 1})
    assert found.plan.segments == 6
    assert same_bits(found, wanted)
    assert (found.audit.rows_nonfinite, found.audit.rows_zero, found.rows_read) == (1, 1, 89)
    kept = np.delete(rows, 70, axis=0).astype(np.float64)
    unit = np.delete(kept, 5, axis=0)
    unit /= np.linalg.norm(unit, axis=1)[:, None]
    for estimate, matrix in (
        (found.rankme, kept),
        (found.normalized["rankme"], unit),
        *((found.dims[d]["rankme"], kept[:, :d]) for d in (7, 80, 100)),
    ):
        true = rs.metrics.rankme(np.linalg.svd(matrix, compute_uv=False))
        assert estimate.lower * (1 - 1e-12) <= true <= estimate.upper * (1 + 1e-12)
        assert estimate.upper - estimate.lower < 1e-5 * true
    assert found["isoscore"].value == pytest.approx(rs.metrics.isoscore(dense(kept)[1], n_features=120), rel=1e-9)


def test_a_collapsed_spectrum_goes_on_to_qr_of_the_rows():
    rows = matrix_with_spectrum(np.where(np.arange(50) < 3, 1.0, 1e-9), n_rows=50, n_features=400)
    found = rs.measure(rows, tolerance=1e-6)
    assert [one["method"] for one in found.passes] == ["row-gram", "row-qr"]
    assert found.method == "row-qr" and found.tolerance_met
    true = rs.metrics.rankme(np.linalg.svd(rows, compute_uv=False))
    assert found.rankme.lower <= true <= found.rankme.upper
    worst = found.rankme.details["worst_case"]
    assert worst[0] <= found.rankme.lower and found.rankme.upper <= worst[1]
    with pytest.warns(ToleranceWarning, match="pass a larger tolerance"):
        assert rs.measure(rows, tolerance=1e-14).method == "row-qr"


def test_a_pass_that_is_stopped_goes_on_to_the_same_bits(short, tmp_path):
    path = store(tmp_path / "a.zarr", rows_like(90, 120), chunk=16)
    wanted = rs.measure(path, normalize=True)
    stopped(path, tmp_path / "kept", 40, normalize=True, workers=1)
    held = rs.load_state(tmp_path / "kept")
    assert held.plan.method == "row-gram" and held.covered and held.missing
    assert same_bits(rs.measure(path, normalize=True, checkpoint=tmp_path / "kept"), wanted)
    assert same_bits(rs.measure_state(rs.load_state(tmp_path / "kept")), wanted)


def test_parts_of_a_job_array_give_the_bits_of_one_pass(short, tmp_path):
    path = store(tmp_path / "a.zarr", rows_like(90, 120), chunk=16)
    parts = [rs.segment(path, part=(i, 4), state=tmp_path / f"{i}") for i in range(4)]
    wanted = rs.measure(path, dims=(50,))
    assert same_bits(rs.measure_state(rs.merge_states(parts[::-1]), dims=(50,)), wanted)
    with pytest.warns(ToleranceWarning, match="rankme segment .* --method tsqr --part I/N"):
        rs.measure_state(rs.merge_states(parts), tolerance=1e-15)


def test_a_dump_that_grows_past_its_width_goes_on_with_its_rows(tmp_path):
    rows = rows_like(40, 30)
    few, many = store(tmp_path / "a.zarr", rows[:20], chunk=20), tmp_path / "kept"
    assert rs.measure(few, checkpoint=many).method == "row-gram"
    assert rs.measure(store(tmp_path / "b.zarr", rows, chunk=20)).method == "gram"
    grown = zarr.open_array(few)
    grown.resize((40, 30))
    grown[20:] = rows[20:]
    found = rs.measure(few, checkpoint=many)
    assert (found.method, found.rows_read) == ("row-gram", 40)
    assert found.rankme.value == pytest.approx(rs.measure(rows).rankme.value, rel=1e-9)


def test_a_pass_that_began_with_the_features_of_few_rows_goes_on_with_them(tmp_path):
    path, kept = store(tmp_path / "a.zarr", rows_like(20, 30), chunk=5), tmp_path / "kept"
    wanted = rs.measure(path, method="gram", checkpoint=kept)  # as versions before this did by themselves
    found = rs.measure(path, checkpoint=kept)
    assert found.method == "gram"
    assert same_bits(found, wanted)


def test_results_are_shown_and_compared_with_those_of_other_methods(tmp_path, capsys):
    rows = rows_like(20, 30)
    for name, options in (("few", {}), ("features", {"method": "gram"})):
        (tmp_path / f"{name}.json").write_text(rs.measure(rows, **options).to_json())
    for command in (["show", tmp_path / "few.json"], ["compare", tmp_path / "few.json", tmp_path / "features.json"]):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in command])
        assert not end.value.code
        assert "row-gram" in capsys.readouterr().out


def test_rows_that_were_all_left_out_are_refused():
    with pytest.raises(SourceError, match="no row is left"):
        rs.measure(np.full((3, 8), np.nan), nonfinite="skip")


def test_a_population_of_fewer_rows_than_features_has_no_number():
    with pytest.warns(ToleranceWarning, match="RankMe is not stated"):
        found = rs.measure(rows_like(20, 40), population=True)
    assert found.method == "gram" and found.rankme.value is None
    assert found.rankme.reason == "20 rows of 40 features give no interval: there are fewer than 1.25 rows a feature"
