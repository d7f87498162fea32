"""A plan states the memory of the step of a measurement that holds most, and a measurement states the same."""

from __future__ import annotations

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import LimitError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("steps") / "rows.npy"
    rows = np.random.default_rng(0).standard_normal((24_000, 200)) * 0.98 ** np.arange(200)
    np.save(path, rows.astype(np.float32))
    return path


def of_steps(plan):
    """Return the memory of a plan beside what the process, and an earlier arithmetic, held before."""
    return {name: n_bytes for name, n_bytes in plan.memory.items() if name != "process"}


@pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"population": True},
        {"population": True, "normalize": True, "dims": (100,), "method": "gram"},
        {"sample": True, "method": "gram"},
        {"method": "rsvd", "rank": 30, "passes": 2},
    ],
    ids=str,
)
def test_a_measurement_states_what_its_plan_foretold(path, options):
    planned, measured = rs.plan(path, workers=2, **options), rs.measure(path, workers=2, tolerance=0.3, **options).plan
    assert of_steps(measured) == of_steps(planned)
    assert measured.predicted_peak_bytes - planned.predicted_peak_bytes == (
        measured.memory["process"] - planned.memory["process"]
    )


def test_the_better_arithmetic_is_foretold_beside_the_result_of_the_first(path):
    auto, gram, tsqr = (rs.plan(path, method=name, workers=1) for name in ("auto", "gram", "tsqr"))
    assert auto.method == gram.method == "gram"
    assert of_steps(auto) == of_steps(tsqr)
    assert auto.memory["process"] - tsqr.memory["process"] >= gram.result_bytes > 0


def test_an_arithmetic_that_does_not_fit_is_not_foretold(path):
    gram, auto = (rs.plan(path, method=name, workers=1).predicted_peak_bytes for name in ("gram", "auto"))
    limit = (gram + auto) // 2
    tight = rs.plan(path, workers=1, memory_limit=limit)
    assert of_steps(tight) == of_steps(rs.plan(path, method="gram", workers=1, memory_limit=limit))
    assert tight.predicted_peak_bytes <= limit


@pytest.mark.parametrize("options", [{"population": True}, {"sample": True}, {"population": True, "dims": (900,)}])
def test_the_sample_is_foretold_where_it_holds_most_and_refused_before_the_first_read(options):
    rows, reads = np.zeros((40_000, 900), np.float32), []
    planned = rs.plan(rows, method="gram", workers=1, **options)
    assert planned.predicted_peak_bytes > rs.plan(rows, method="gram", workers=1).predicted_peak_bytes + 2**26
    with pytest.raises(LimitError):
        rs.measure(
            rows, method="gram", workers=1, memory_limit=planned.predicted_peak_bytes - 2**25, progress=reads.append,
            **options,
        )  # fmt: skip
    assert not reads


def test_replicates_that_have_too_few_rows_to_be_compared_take_no_memory_for_it(path):
    plans = [rs.plan(path, population=True, method="gram", workers=1, rows=(0, n)) for n in (249, 250)]
    assert of_steps(plans[0])["solving"] + 16 * plans[0].result_bytes <= of_steps(plans[1])["solving"]


def test_threads_without_a_segment_and_chunks_that_do_not_exist_are_not_foretold(path):
    short = [rs.plan(path, method="gram", rows=(0, 4000), workers=n).memory for n in (1, 8)]
    assert short[1]["panels"] == short[0]["panels"] and short[1]["accumulators"] == short[0]["accumulators"]
    rows = np.zeros((24_000, 200), np.float32)
    one = rs.plan(rows, method="gram", workers=4)
    assert one.memory["reading"] <= rows.nbytes * 2
