"""A sample of the rows: which rows are read, the estimates for all rows, and the cases that have no estimate."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings

import jsonschema
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import rankme_stream as rs
from rankme_stream.cli.commands import cli
from rankme_stream.errors import LimitError, NonFiniteError, ToleranceWarning, UsageError
from rankme_stream.numerics import counter_rng
from rankme_stream.passes.planning import sample_design
from rankme_stream.spectra.estimates import METRICS, estimate_all
from tests.result_schema import SCHEMA

D = 64


def rows_like(n_rows: int, *, n_features: int = D, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((n_rows, n_features)) * np.arange(1, n_features + 1) ** -0.5
    return rows.astype(np.float16)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return rows_like(60_000)


@given(st.integers(1, 500), st.integers(0, 2**64 - 1))
def test_each_place_is_drawn_once(n, seed):
    assert sorted(counter_rng.distinct(n, seed=seed)) == list(range(n))


def test_places_are_drawn_evenly():
    firsts = [next(iter(counter_rng.distinct(8, seed=seed))) for seed in range(4000)]
    counts = np.bincount(firsts, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 30  # chi-square, 7 degrees: exceeded with probability 1e-4


def test_a_look_adds_to_the_one_before():
    drawn = sample_design.draw_design(rows=(0, 10**6), n_features=D, seed=0)
    looks = list(drawn.looks())
    assert looks == [looks[0] << k for k in range(len(looks))]
    assert looks[-1] * 2 > drawn.n_units // 2
    together = drawn.units(0, looks[1])
    assert {**drawn.units(0, looks[0]), **drawn.units(looks[0], looks[1])} == together
    counts = np.bincount(list(together.values())).tolist()
    assert counts == [looks[1] // sample_design.N_REPLICATES] * sample_design.N_REPLICATES


@pytest.mark.parametrize("method", ["gram", "tsqr"])
def test_the_same_seed_gives_the_same_bits_for_any_number_of_workers(rows, method, tmp_path):
    array = zarr.create_array(tmp_path / "dump.zarr", data=rows, chunks=(1000, D))
    options = {"sample": True, "tolerance": 3e-3, "method": method, "normalize": True, "dims": (9,)}
    wanted = rs.measure(array, workers=1, **options)
    assert 0 < wanted.rows_read < len(rows) / 2
    for workers in (2, 5):
        found = rs.measure(array, workers=workers, **options)
        assert (found.rows_read, found.estimates, found.normalized, found.dims) == (
            wanted.rows_read, wanted.estimates, wanted.normalized, wanted.dims,
        )  # fmt: skip
    assert rs.measure(array, seed=1, **options).rankme.value != wanted.rankme.value


def test_a_sample_estimates_the_metrics_of_all_rows(rows):
    exact = rs.measure(rows, normalize=True, dims=(9,))
    found = rs.measure(rows, sample=True, tolerance=2e-3, normalize=True, dims=(9,))
    assert found.tolerance_met
    assert found.rows_read < len(rows) / 4
    assert found.rankme.half_width <= 2e-3 * found.rankme.value
    pairs = [(found.estimates, exact.estimates), (found.normalized, exact.normalized), (found.dims[9], exact.dims[9])]
    for mine, theirs in pairs:
        for name, estimate in mine.items():
            if estimate.value is None:
                assert name in ("numerical_rank", "condition_number") or theirs[name].value is None
                continue
            assert estimate.covers == ("arithmetic", "sampling")
            assert estimate.confidence == 0.95
            # four times the 95 % interval: a fixed seed, and about thirty numbers
            assert abs(estimate.value - theirs[name].value) < 2 * (estimate.upper - estimate.lower), name


def test_the_correction_removes_the_bias(rows):
    exact = rs.measure(rows).rankme.value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ToleranceWarning)
        found = [rs.measure(rows, sample=True, max_rows=1024, seed=seed, tolerance=1e-9).rankme for seed in range(10)]
    raw = np.array([one.details["sample"] - exact for one in found])
    corrected = np.array([one.value - exact for one in found])
    assert raw.mean() < -0.3
    assert abs(corrected.mean()) < 0.1 * np.mean([one.half_width for one in found]) + 3 * corrected.std() / 10**0.5


def test_rows_so_wide_that_chance_leaves_less_than_the_second_order_of_the_bias():
    off = []
    for seed in range(6):
        rows = np.random.default_rng(seed).standard_normal((9_216, 256)).astype(np.float32)
        exact = rs.measure(rows).rankme.value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ToleranceWarning)
            found = rs.measure(rows, sample=True, max_rows=3072, tolerance=1e-9, seed=seed).rankme
        assert found.lower <= exact <= found.upper
        off.append((found.value - exact) / found.details["standard_error"])
    assert abs(np.mean(off)) < 0.8  # corrected to first order 1.4


def test_reading_every_row_after_all_gives_the_exact_value(rows):
    exact = rs.measure(rows)
    found = rs.measure(rows, sample=True, tolerance=1e-5)
    assert found.estimates == exact.estimates
    assert (found.rows_read, found.sampling) == (len(rows), None)
    assert found.convergence
    assert rs.measure(rows, sample=True, max_rows=len(rows), tolerance=1e-5).estimates == exact.estimates
    assert found.rankme.covers == ("arithmetic",)


def test_a_dump_too_small_for_a_sample_is_read_whole():
    rows = rows_like(1000)
    assert rs.measure(rows, sample=True).estimates == rs.measure(rows).estimates


def test_metrics_that_need_the_order_of_close_singular_values_have_no_value():
    rows = np.random.default_rng(0).standard_normal((30_000, D)).astype(np.float32)
    found = rs.measure(rows, sample=True, tolerance=1e-3)
    assert found.rankme.value is not None
    for name in ("stable_rank", "nesum", "alpha_req"):
        assert found[name].value is None
        assert "too close together" in found[name].reason


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sample": True, "max_rows": 100}, r"max_rows is 100, and an interval needs 464 rows"),
        ({"max_rows": 10_000}, "pass sample as well"),
        ({"sample": True, "tolerance": 0.0}, "for the exact value read every row: leave sample out"),
        ({"sample": True, "confidence": 1.0}, "confidence is 1.0 and must be between 0 and 1"),
        ({"sample": True, "seed": -1}, "seed is -1 and must be at least 0"),
    ],
)
def test_the_impossible_is_answered_with_what_would_work(rows, options, text):
    with pytest.raises(UsageError, match=text):
        rs.measure(rows, **options)


def test_bad_rows_in_a_sample_are_refused_or_left_out_and_counted(rows):
    bad = rows.copy()
    bad[::50, 3] = np.nan
    with pytest.raises(NonFiniteError, match="is not finite"):
        rs.measure(bad, sample=True)
    found = rs.measure(bad, sample=True, nonfinite="skip", tolerance=5e-3)
    units = found.sampling["units_read"] * found.sampling["unit_rows"]
    assert 0 < found.audit.rows_nonfinite == units - found.rows_read


def test_collapsed_rows_are_sampled_by_qr_where_the_gram_is_too_coarse():
    values = np.where(np.arange(D) < 2, 1.0, 1e-8)
    rows = np.random.default_rng(0).standard_normal((20_000, D)) * values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ToleranceWarning)
        found = rs.measure(rows, sample=True, tolerance=1e-5, max_rows=4096)
    assert [one["method"] for one in found.passes] == ["gram", "tsqr"]
    exact = rs.metrics.rankme(np.linalg.svd(rows, compute_uv=False))
    assert found.rankme.lower <= exact <= found.rankme.upper


def test_the_command_prints_what_was_read_and_how_it_converged(rows, tmp_path):
    np.save(tmp_path / "dump.npy", rows)
    result = tmp_path / "result.json"
    options = ["--sample", "--tolerance", "3e-3", "--seed", "5", "--json", str(result)]
    done = CliRunner().invoke(cli, ["score", str(tmp_path / "dump.npy"), *options])
    assert done.exit_code == 0, done.output
    document = json.loads(result.read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["provenance"]["seed"] == document["sampling"]["seed"] == 5
    assert [point["rows"] for point in document["convergence"]][-1] == document["rows_read"]
    assert "They also cover the error of reading a part, for all rows, with probability 0.95" in done.output
    assert f"differ from all {document['sampling']['units_read']:,} that were read: fewer than " in done.stdout
    assert "\n  Convergence, after each look:\n  " in done.stdout
    for point in document["convergence"]:
        assert f"{point['rows']:,} rows  RankMe" in done.stdout
        assert f"rankme: {point['rows']:,} rows, RankMe" in done.stderr


def test_a_sample_is_planned(rows, tmp_path):
    np.save(tmp_path / "dump.npy", rows)
    done = CliRunner().invoke(cli, ["plan", str(tmp_path / "dump.npy"), "--sample"])
    assert "sample      640 rows or more, in random units of 1 row" in done.stdout
    found = rs.measure(rows, sample=True, tolerance=1e-2)
    assert found.plan.sample_rows == rs.plan(rows, sample=True).sample_rows == 640
    assert rs.plan(rows[:500], sample=True).sample_rows == rs.plan(rows).sample_rows == 0
    command = ["score", str(tmp_path / "dump.npy"), "--sample", "--tolerance", "1e-2", "--verbose"]
    done = CliRunner().invoke(cli, command)
    assert "640 rows or more" in done.stderr
    assert "Every row that was read was finite" in done.stdout


def test_a_sample_that_may_not_read_enough_exits_with_4_and_the_result(rows, tmp_path):
    np.save(tmp_path / "dump.npy", rows)
    command = ["score", str(tmp_path / "dump.npy"), "--sample", "--max-rows", "1000", "--json", "-"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 4
    assert "allow more rows" in done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA)
    assert document["rows_read"] == 992
    assert document["tolerance_met"] is False


def test_the_command_answers_the_impossible_in_one_line(rows, tmp_path):
    np.save(tmp_path / "dump.npy", rows)
    options = ["--sample", "--max-rows", "100"]
    command = [sys.executable, "-m", "rankme_stream", "score", str(tmp_path / "dump.npy"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("rankme: error: --max-rows is 100, and an interval needs 464 rows here")
    assert "leave --sample out" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_interval_for_a_population_is_printed_and_written(rows, tmp_path):
    np.save(tmp_path / "dump.npy", rows[:8000])
    result = tmp_path / "result.json"
    options = ["--population", "--tolerance", "0.02", "--json", str(result)]
    done = CliRunner().invoke(cli, ["score", str(tmp_path / "dump.npy"), *options])
    assert done.exit_code == 0, done.output
    jsonschema.validate(json.loads(result.read_text()), SCHEMA)
    assert "for the population that they were drawn from, with probability 0.95" in done.stdout


def test_every_metric_is_of_a_sample_or_says_why_not(rows):
    found = rs.measure(rows, sample=True, tolerance=5e-3)
    assert found.estimates.keys() == estimate_all(found.spectrum).keys()
    for name, estimate in found.estimates.items():
        assert (estimate.value is None) == (not METRICS[name].allows_sampling)
        assert estimate.value is not None or estimate.reason


def test_a_whole_dump_gets_an_interval_for_its_population():
    """The rows are Gaussian, so RankMe of infinitely many is known."""
    truth = rs.metrics.rankme(np.arange(1, D + 1) ** -0.5)
    held, sampled = 0, 0
    for seed in range(8):
        rows = rows_like(6400, seed=seed).astype(np.float32)
        found = rs.measure(rows, population=True, seed=seed, tolerance=1e-2)
        held += found.rankme.lower <= truth <= found.rankme.upper
        assert found.rankme.value > found.rankme.details["sample"]
        part = rs.measure(rows, population=True, sample=True, tolerance=1e-2, seed=seed)
        sampled += part.rankme.lower <= truth <= part.rankme.upper
    assert found.rankme.details["sample"] == rs.measure(rows).rankme.value
    assert held >= 5  # fewer with probability 4e-4 if each holds with 0.95
    assert sampled >= 5


def test_too_few_rows_give_no_interval_for_their_population():
    for n_rows, text in ((10, "too few"), (70, "there are fewer than 1.25 rows a feature")):
        with pytest.warns(ToleranceWarning, match=f"RankMe is not stated: .*{re.escape(text)}"):
            found = rs.measure(rows_like(n_rows), population=True)
        assert found.rankme.value is None
        assert text in found.rankme.reason


def quietly(rows: np.ndarray, **options) -> rs.Measurement:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ToleranceWarning)
        return rs.measure(rows, sample=True, **options)


@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1e100])
@pytest.mark.parametrize("method", ["auto", "tsqr"])
def test_size_changes_no_sample(scale, method):
    rows = rows_like(20_000, n_features=8).astype(np.float64)
    wanted, found = (quietly(one, max_rows=4000, tolerance=2e-2, method=method) for one in (rows, rows * scale))
    assert found.rankme.value == pytest.approx(wanted.rankme.value, rel=1e-6)
    assert found.sampling["effective_rows"] == pytest.approx(wanted.sampling["effective_rows"])


def test_every_number_of_a_sample_is_json():
    rows = rows_like(20_000, n_features=8)
    rows[:, 3] = 0
    document = json.loads(rs.measure(rows, sample=True, tolerance=0.05).to_json())
    jsonschema.validate(document, SCHEMA)
    assert document["estimates"]["condition_number"]["details"]["sample"] == "inf"


def test_the_interval_holds_the_rounding_that_the_correction_magnifies():
    """Four rows, repeated: no sampling error at all, and a bias of nothing but rounding."""
    rows = np.tile(np.random.default_rng(0).standard_normal((4, 64)), (10_000, 1))
    exact = rs.measure(rows, method="tsqr").rankme.value
    found = rs.measure(rows, sample=True)
    assert found.rankme.lower <= exact <= found.rankme.upper
    assert found.rankme.covers == ("arithmetic", "sampling")


def test_a_population_may_come_in_large_units(tmp_path):
    rows = np.random.default_rng(0).standard_normal((400_000, 8), dtype=np.float32)
    zarr.create_array(tmp_path / "d.zarr", data=rows, chunks=(65_536, 8))
    found = rs.measure(tmp_path / "d.zarr", population=True)
    assert found.rankme.lower <= 8.0 <= found.rankme.upper + 1e-4


def test_float32_that_overflows_goes_on_to_float64():
    rows = rows_like(60_000).astype(np.float64) * 1e25
    found = rs.measure(rows, sample=True, precision="auto", tolerance=5e-3)
    assert found.precision == "float64"


def test_more_rows_are_not_asked_for_where_the_arithmetic_is_to_blame():
    rows = np.random.default_rng(0).standard_normal((60_000, D)) * np.where(np.arange(D) < 2, 1.0, 1e-8)
    with pytest.warns(ToleranceWarning, match='try method="auto"'):
        rs.measure(rows, sample=True, method="gram", tolerance=1e-7, max_rows=2000)


def test_groups_of_a_population_are_refused_before_every_row_is_read():
    rows = rows_like(60_000, n_features=256).astype(np.float32)
    limit = rs.plan(rows, workers=1).predicted_peak_bytes + 2**20
    reads = []
    with pytest.raises(LimitError):
        rs.measure(rows, population=True, workers=1, memory_limit=limit, progress=reads.append)
    assert not reads


def test_no_number_lies_above_what_is_possible():
    for seed in range(4):  # corrected values of two equal directions are above 2 in half of the seeds
        rows = np.random.default_rng(seed).standard_normal((6_000, 2))
        truth = rs.measure(rows).rankme.value
        for options in ({"sample": True}, {"population": True}):
            found = rs.measure(rows, tolerance=0.5, seed=seed, **options)
            for name in ("effective_rank", "participation_ratio", "variance_effective_rank"):
                one = found.estimates[name]
                assert one.lower <= one.value <= one.upper <= 2.0, (seed, options, name)
            assert found.rankme.lower <= truth <= found.rankme.upper + 1e-5
