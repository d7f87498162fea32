"""One pass over real stores: right numbers, the same bits under any schedule, reasons where no value is stated."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import LimitError, MagnitudeError, NonFiniteError, SourceError, UsageError
from rankme_stream.measuring import escalation, pass_runner
from rankme_stream.testing import matrix_with_spectrum

BUNDLED = Path(rs.__file__).parent / "cli" / "data" / "minilm-docstrings-4096.zarr"
REFERENCE = Path(__file__).parents[1] / "data" / "minilm-docstrings-4096.reference.json"


@pytest.mark.parametrize(("method", "tolerance"), [("tsqr", 1e-10), ("gram", 1e-8)])
def test_the_bundled_dump_agrees_with_a_dense_svd(method, tolerance):
    measurement = rs.measure(f"{BUNDLED}::embeddings", method=method)
    for name, wanted in json.loads(REFERENCE.read_text())["estimates"].items():
        if measurement[name].value is None:
            assert name == "condition_number"  # its null directions lie below what float64 can tell from zero
        else:
            assert measurement[name].value == pytest.approx(wanted, rel=tolerance), name


@pytest.mark.parametrize(("method", "tolerance"), [("tsqr", 1e-10), ("gram", 1e-8)])
def test_unit_rows_and_prefixes_come_from_the_same_pass(method, tolerance):
    reference = json.loads(REFERENCE.read_text())
    measurement = rs.measure(f"{BUNDLED}::embeddings", method=method, normalize=True, dims=(128, 64, 64))
    assert list(measurement.dims) == [64, 128]
    found = {"normalized": measurement.normalized} | {f"dims {d}": prefix for d, prefix in measurement.dims.items()}
    wanted = {"normalized": reference["normalized"]} | {f"dims {d}": reference["dims"][str(d)] for d in (64, 128)}
    for part, numbers in wanted.items():
        for name, number in numbers.items():
            estimate = found[part][name]
            assert estimate.value == pytest.approx(number, rel=tolerance), (part, name)
            slack = 1e-10 * abs(number)  # of the reference
            assert estimate.lower - slack <= number <= estimate.upper + slack, (part, name)
    alone = rs.measure(f"{BUNDLED}::embeddings", method=method)
    assert alone.spectrum.singular_values.tobytes() == measurement.spectrum.singular_values.tobytes()
    assert (alone.normalized, alone.dims) == ({}, {})
    assert measurement.plan.memory["accumulators"] == 2 * alone.plan.memory["accumulators"]


def test_rows_of_zeros_have_no_direction_and_are_left_out_of_the_unit_rows():
    rows = np.random.default_rng(0).standard_normal((50, 4))
    padded = np.concatenate([np.zeros((3, 4)), rows, np.zeros((2, 4))])
    with_zeros, without = (rs.measure(each, normalize=True).normalized for each in (padded, rows))
    for name, estimate in with_zeros.items():
        assert estimate.value == pytest.approx(without[name].value, rel=1e-12), name


@pytest.mark.parametrize("shape", [(1, 3), (5, 1), (1, 1)])
def test_metrics_of_unit_rows_that_are_not_defined_say_so(shape):
    normalized = rs.measure(np.ones(shape), normalize=True).normalized
    assert normalized["self_cluster"].value is None
    assert "not defined" in normalized["self_cluster"].reason
    assert (normalized["cosine_anisotropy"].value is None) == (shape[0] == 1)
    assert normalized["vendi"].value == pytest.approx(1.0)


def test_escalation_reads_again_until_the_tolerance_holds_and_says_so():
    k = np.arange(64)
    collapsed = matrix_with_spectrum(np.where(k < 5, 1.0, 1e-9), n_rows=3000, n_features=64)
    wanted = rs.metrics.rankme(np.where(k < 5, 1.0, 1e-9))
    relaxed = rs.measure(collapsed, tolerance=0.1)
    assert [attempt["method"] for attempt in relaxed.passes] == ["gram"]
    strict = rs.measure(collapsed, tolerance=1e-7)
    assert [attempt["method"] for attempt in strict.passes] == ["gram", "tsqr"]
    assert strict.tolerance_met
    assert strict.rankme.lower <= wanted <= strict.rankme.upper
    assert "A pass by gram in float64 left RankMe ± " in str(strict)
    assert strict.measured["bytes_read"] == 2 * relaxed.measured["bytes_read"]
    with pytest.warns(rs.ToleranceWarning, match="wider than the tolerance 1e-07"):
        unmet = rs.measure(collapsed, method="gram", tolerance=1e-7)
    assert not unmet.tolerance_met
    assert unmet.rankme.lower <= wanted <= unmet.rankme.upper


@pytest.mark.parametrize(
    ("spectrum", "taken"),
    [
        (np.ones(32), [("gram", "float32")]),
        (np.where(np.arange(32) < 5, 1.0, 1e-9), [("gram", "float64")]),
    ],
    ids=["flat", "collapsed"],
)
def test_precision_auto_takes_what_a_pilot_says_will_do(spectrum, taken, monkeypatch):
    monkeypatch.setattr(escalation, "_FLOAT32_PAYS_FROM", 1)
    rows = matrix_with_spectrum(spectrum, n_rows=40_000, n_features=32).astype(np.float32)
    measurement = rs.measure(rows, precision="auto")
    assert [(attempt["method"], attempt["precision"]) for attempt in measurement.passes] == taken
    assert measurement.tolerance_met
    truth = rs.measure(rows, method="tsqr").rankme.value
    assert measurement.rankme.lower <= truth <= measurement.rankme.upper


def test_precision_auto_reads_no_pilot_of_a_small_dump_and_leaves_overflow_to_float64(rows, monkeypatch):
    monkeypatch.setattr(escalation, "_FLOAT32_PAYS_FROM", 1)
    assert rs.measure(rows[:5000], precision="auto").precision == "float64"
    large = np.ones((40_000, 4), dtype=np.float32) * 1e25
    large[::2, 1] = -1e25
    with pytest.raises(MagnitudeError, match="float32"):
        rs.measure(large, precision="float32")
    assert rs.measure(large, precision="auto").precision == "float64"


def bits(source, **options) -> list[bytes]:
    measurement = rs.measure(source, **options)
    spectrum = measurement.spectrum
    boxes = [
        end for side in (spectrum.raw, spectrum.centered) for end in (side.consistent.lower, side.consistent.upper)
    ]
    return [array.tobytes() for array in (spectrum.singular_values, spectrum.centered_singular_values, *boxes)]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(11).standard_normal((70_001, 24)).astype(np.float32)


def least_memory(source, method: str, precision: str) -> int:
    """Return the limit that only the smallest blocks fit, with room for what the process itself may take meanwhile."""
    with pytest.raises(LimitError, match="give memory_limit") as refusal:
        rs.plan(source, method=method, precision=precision, workers=1, memory_limit=1)
    return (int(str(refusal.value).split("memory_limit ")[1].split("MiB")[0]) + 16) * 2**20


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_unit_rows_have_the_same_bits_under_any_schedule(rows, precision):
    def found(**options) -> list[str]:
        return list(map(repr, rs.measure(rows, normalize=True, precision=precision, **options).normalized.values()))

    assert found(workers=1) == found(workers=3)


@pytest.mark.parametrize(("method", "precision"), [("gram", "float64"), ("gram", "float32"), ("tsqr", "float64")])
def test_the_same_matrix_gives_the_same_bits_in_any_layout_and_schedule(rows, method, precision, tmp_path):
    wanted = bits(rows, method=method, precision=precision, workers=1)
    np.save(tmp_path / "c.npy", rows)
    np.save(tmp_path / "f.npy", np.asfortranarray(rows))
    layouts = {
        "plain": {"chunks": (1000, 24)},
        "split": {"chunks": (4097, 7)},
        "large": {"chunks": (70_000, 24)},
        "sharded": {"chunks": (500, 12), "shards": (10_000, 24)},
        "v2": {"chunks": (999, 24), "zarr_format": 2, "order": "F"},
    }
    for name, layout in layouts.items():
        array = zarr.create_array(tmp_path / f"{name}.zarr", shape=rows.shape, dtype=rows.dtype, **layout)
        array[:] = rows
    sources = [rows, np.asfortranarray(rows), rows.astype(">f4"), *map(str, sorted(tmp_path.iterdir()))]
    for source in sources:
        for workers in (1, 2, 5):
            assert bits(source, method=method, precision=precision, workers=workers) == wanted, (source, workers)
        tight = {"memory_limit": least_memory(source, method, precision)}
        assert bits(source, method=method, precision=precision, **tight) == wanted, source


def test_rows_appended_change_no_bit_of_the_segments_before(rows):
    assert bits(rows, rows=(0, 65_536)) == bits(rows[:65_536])


def test_a_zero_matrix_gives_reasons_not_numbers():
    measurement = rs.measure(np.zeros((50, 4)))
    assert measurement.rankme.value is None
    assert measurement.rankme.reason == "all singular values are zero"
    assert measurement.audit.rows_zero == 50


@pytest.mark.parametrize("method", ["gram", "tsqr"])
def test_identical_rows_have_rank_one_and_no_centred_spectrum(method):
    measurement = rs.measure(np.tile(np.random.default_rng(0).standard_normal(16), (300, 1)), method=method)
    assert measurement["effective_rank"].value == pytest.approx(1.0, abs=1e-5)
    for name in ("centered_rankme", "participation_ratio", "nesum", "isoscore", "alpha_req"):
        assert measurement[name].value is None
        assert measurement[name].reason.startswith("all singular values are zero"), name


@pytest.mark.parametrize("method", ["gram", "tsqr"])
def test_one_row_one_feature_and_fewer_rows_than_features(method):
    one_row = rs.measure(np.arange(1.0, 9.0)[None], method=method)
    assert one_row["effective_rank"].value == 1.0
    assert one_row["participation_ratio"].value is None
    one_feature = rs.measure(np.arange(1.0, 9.0)[:, None], method=method)
    assert one_feature["effective_rank"].value == 1.0
    assert "one feature" in one_feature["isoscore"].reason or "n_features" in one_feature["isoscore"].reason
    wide = np.random.default_rng(0).standard_normal((6, 40))
    measurement = rs.measure(wide, method=method)
    assert measurement.spectrum.singular_values.shape == (6,)
    dense = np.linalg.svd(wide, compute_uv=False)
    assert measurement.rankme.value == pytest.approx(rs.metrics.rankme(dense), rel=1e-9)


def test_a_dead_feature_makes_the_condition_number_infinite():
    rows = np.random.default_rng(0).standard_normal((100, 5))
    rows[:, 3] = 0.0
    measurement = rs.measure(rows)
    assert measurement["condition_number"].value == np.inf
    assert measurement["numerical_rank"].value == 4
    assert measurement.to_dict()["estimates"]["condition_number"]["value"] == "inf"


def test_a_null_direction_below_the_arithmetic_is_not_given_a_number():
    rows = np.random.default_rng(0).standard_normal((100, 5))
    rows[:, 4] = rows[:, 0] + rows[:, 1]
    measurement = rs.measure(rows)
    condition = measurement["condition_number"]
    assert (condition.value, condition.upper) == (None, np.inf)
    assert 1e6 < condition.lower < 1e12
    assert "cannot tell" in condition.reason
    assert ">= " in str(measurement)
    assert (measurement["numerical_rank"].lower, measurement["numerical_rank"].upper) == (4, 5)
    assert "4 to 5" in str(measurement)


def test_rows_that_are_not_finite_are_refused_with_the_first_place_for_any_workers(rows):
    broken = rows.copy()
    broken[[40_000, 40_001, 69_000], 3] = [np.nan, np.inf, -np.inf]
    for workers in (1, 3):
        with pytest.raises(NonFiniteError, match=r"row 40,000 is not finite \(2 such rows"):
            rs.measure(broken, workers=workers)


@pytest.mark.parametrize("method", ["gram", "tsqr"])
def test_rows_skipped_are_counted_and_change_nothing_else(rows, method):
    broken = rows.copy()
    broken[[5, 40_000], 3] = np.nan
    measurement = rs.measure(broken, nonfinite="skip", method=method)
    assert (measurement.audit.rows_nonfinite, measurement.audit.first_nonfinite) == (2, 5)
    assert measurement.rows_read == len(rows) - 2
    kept = rs.measure(np.delete(broken, [5, 40_000], axis=0), method=method)
    assert measurement.rankme.value == pytest.approx(kept.rankme.value, rel=1e-12)


def test_magnitudes_beyond_float64_arithmetic_are_refused_with_the_place():
    rows = np.ones((2000, 3))
    rows[1500, 1] = 1e200
    with pytest.raises(MagnitudeError, match="row 1,500"):
        rs.measure(rows)
    with pytest.raises(MagnitudeError, match="row 7 holds integers"):
        rs.measure(np.where(np.arange(20)[:, None] == 7, 2**53 + 1, 1))


def test_values_whose_squares_would_underflow_have_the_interval_of_larger_ones():
    rows = np.random.default_rng(0).standard_normal((90, 3))
    wanted = rs.measure(rows, method="gram").rankme
    for exponent in (-500, -520, -530, -900):
        found = rs.measure(rows * 2.0**exponent)
        assert (found.method, found.tolerance_met) == ("gram", True)
        assert found.rankme.lower <= wanted.value <= found.rankme.upper
        assert found.rankme.half_width <= 2.0 * wanted.half_width


def test_an_arithmetic_that_does_not_fit_the_memory_limit_is_passed_over(monkeypatch):
    monkeypatch.setattr(escalation, "_FLOAT32_PAYS_FROM", 1)
    rows = np.random.default_rng(0).standard_normal((3000, 300))
    k = np.arange(300)
    collapsed = matrix_with_spectrum(np.where(k < 5, 1.0, 1e-9), n_rows=3000, n_features=300)
    real = pass_runner.make_plan

    def refuse(*which: tuple[str, str]):
        def make_plan(workload, *limits):
            if workload.arithmetic in which:
                raise LimitError("no room here")
            return real(workload, *limits)

        monkeypatch.setattr(pass_runner, "make_plan", make_plan)

    refuse(("gram", "float32"))
    assert rs.measure(rows, precision="auto").precision == "float64"
    refuse(("tsqr", "float64"))
    with pytest.warns(rs.ToleranceWarning, match="was not tried: no room here"):
        assert rs.measure(collapsed, tolerance=1e-9).method == "gram"
    refuse(("gram", "float64"), ("tsqr", "float64"))
    with pytest.raises(LimitError, match="no room here"):
        rs.measure(rows)


def test_wrong_arguments_are_named():
    rows = np.ones((4, 2))
    for options in (
        {"method": "svd"},
        {"precision": "f"},
        {"tolerance": 0},
        {"tolerance": np.inf},
        {"dims": (3,)},
        {"missing": "no"},
        {"nonfinite": "no"},
        {"rows": (3, 9)},
        {"workers": 0},
    ):
        with pytest.raises(UsageError, match=next(iter(options))):
            rs.measure(rows, **options)
    with pytest.raises(UsageError, match="float64 only"):
        rs.measure(rows, method="tsqr", precision="float32")
    with pytest.raises(LimitError):
        rs.measure(rows, memory_limit=1)
    with pytest.raises(SourceError, match="no row is left"):
        rs.measure(np.full((4, 2), np.nan), nonfinite="skip")


def test_integers_and_bfloat16_are_read_exactly():
    rows = np.random.default_rng(0).integers(-100, 100, (500, 6))
    wanted = bits(rows.astype(np.float64))
    for dtype in (np.int8, np.int16, np.int64, np.float16, ml_dtypes.bfloat16):
        assert bits(rows.astype(dtype)) == wanted, dtype
