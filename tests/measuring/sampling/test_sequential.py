"""Looks: what one promises the next, and why none was enough."""

from __future__ import annotations

import json
import math

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

import rankme_stream as rs
from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.cli.commands import cli
from rankme_stream.errors import UsageError
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.request import Request
from rankme_stream.measuring.sampling.sample import Sample
from rankme_stream.numerics import blas_threads
from rankme_stream.results.table import table
from rankme_stream.spectra.estimates import METRICS, estimate_all
from tests.result_schema import SCHEMA


@pytest.fixture(autouse=True)
def one_thread():
    with blas_threads.one_thread():  # as in ``measure``
        yield


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((30_000, 16)) * np.arange(1, 17) ** -0.5


def sample_of(rows: np.ndarray, seed: int, looks: list[int]) -> Sample:
    runner = PassRunner(rs.open_source(rows), Request(sample=True, workers=1, seed=seed))
    sample = Sample(runner, Arithmetic("gram", "float64"), runner.design())
    for n_units in looks:
        sample.read_to(n_units)
    return sample


def errors_of(sample: Sample) -> dict[str, float]:
    found = sample.estimates("raw", METRICS, estimate_all)
    rest = math.sqrt(1.0 - sample.fraction)
    return {name: one.details["standard_error"] / rest for name, one in found.items() if one.value is not None}


def test_a_standard_error_is_at_least_what_the_look_before_promised(rows):
    factors = []
    for seed in range(4):
        first, second = errors_of(sample_of(rows, seed, [464])), errors_of(sample_of(rows, seed, [928]))
        both = sample_of(rows, seed, [464, 928])
        found = errors_of(both)
        assert found["rankme"] == pytest.approx(max(second["rankme"], first["rankme"] / math.sqrt(2)), rel=1e-9)
        factors.append(both.widening)
        for name, error in found.items():  # by RankMe's factor, whatever the looks say of a metric
            assert error == pytest.approx(both.widening * second[name], rel=1e-9)
    assert min(factors) == 1.0 < max(factors)


def test_a_look_without_an_interval_promises_too():
    """The first look lacks rows of equal length; its standard error, from the rows themselves, counts all the same."""
    rows = np.random.default_rng(1).standard_normal((10_000, 48))
    rows[::5] *= 2.5
    factors = []
    for seed in range(3):
        sample = sample_of(rows, seed, [480])
        assert "carry the weight of" in sample.withheld.reason
        sample.read_to(960)
        assert sample.withheld is None
        first, second = (jackknife_error(rows, sample, n_units) for n_units in (480, 960))
        factors.append(max(1.0, first / math.sqrt(2) / second))
        assert sample.widening == pytest.approx(factors[-1], rel=1e-6)
    assert max(factors) > 1.0


def jackknife_error(rows: np.ndarray, sample: Sample, n_units: int) -> float:
    """Return the standard error of RankMe by its formula, for units of one row."""
    drawn = sample.design.units(0, n_units)
    units, replicates = np.array(list(drawn)), np.array(list(drawn.values()))
    parts = [rows[units[replicates != k]] for k in range(16)]
    without = np.array([rs.metrics.rankme(np.linalg.eigvalsh(part.T @ part)[::-1] ** 0.5) for part in parts])
    return float((15 / 16 * ((without - without.mean()) ** 2).sum()) ** 0.5)


def test_a_sample_of_equal_rows_is_not_widened():
    sample = sample_of(np.ones((30_000, 4)), 0, [464, 928])
    assert sample.widening >= 1.0
    rankme = sample.estimates("raw", METRICS, estimate_all)["rankme"]
    assert rankme.lower <= 1.0 + 4e-7 <= rankme.upper + 4e-7


def test_a_sample_that_reads_every_row_after_all_says_why_no_look_was_enough(rows, tmp_path):
    np.save(tmp_path / "dump.npy", rows)
    result = tmp_path / "result.json"
    done = CliRunner().invoke(
        cli, ["score", str(tmp_path / "dump.npy"), "--sample", "--tolerance", "1e-4", "--json", str(result)]
    )
    document = json.loads(result.read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["sampling"] is None
    last = document["convergence"][-1]
    assert last["withheld"] is None
    assert 15_000 < last["rows_wanted"] <= 30_000
    assert "Every row was read, for none of these looks at a sample was enough:" in done.stdout
    assert f"; the tolerance needs about {round(last['rows_wanted'], -3):,} rows" in done.stdout


def test_the_table_shows_why_a_look_is_withheld(rows, tmp_path):
    np.save(tmp_path / "dump.npy", np.repeat(rows[:3_000], 10, axis=0) * np.arange(1, 30_001)[:, None] ** 4)
    options = ["--sample", "--max-rows", "500", "--quiet", "--json", "-"]
    done = CliRunner().invoke(cli, ["score", str(tmp_path / "dump.npy"), *options])
    assert done.exit_code == 4
    document = json.loads(done.stdout)
    shown = [line for line in table(document).splitlines() if " rows  RankMe " in line]
    assert shown == [
        f"    {point['rows']:>13,} rows  RankMe -: {point['withheld']}" for point in document["convergence"]
    ]
    assert "Holds unless" not in table(document)
    assert table(document).count(document["estimates"]["rankme"]["reason"]) == 2  # of RankMe, and of the last look
    assert (
        table(document).count(" - as rankme ")
        == sum(
            one["reason"] == document["estimates"]["rankme"]["reason"]
            for one in (document["estimates"] | document["presets"]).values()
        )
        - 1
    )


def test_too_small_a_limit_names_what_the_first_look_needs(rows):
    with pytest.raises(UsageError) as refusal:
        rs.measure(rows, sample=True, max_rows=100)
    assert str(refusal.value) == (
        "max_rows is 100, and an interval needs 464 rows here: 1.5 per feature or more, in 464 units of 1 row, which "
        "find what 1 % of the units have (rare); allow that many, or leave sample out and read every row"
    )
