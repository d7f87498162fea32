"""Plans are arithmetic: they hold for any number of rows and refuse before the first read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankme_stream.accumulators.method import Arithmetic, Size
from rankme_stream.errors import LimitError
from rankme_stream.numerics.machine import Limits
from rankme_stream.passes.planning.block_layout import block_ranges
from rankme_stream.passes.planning.grid import grid_for
from rankme_stream.passes.planning.plan import make_plan
from rankme_stream.passes.planning.workload import RowLayout, Workload


def planned(n_rows=10**6, n_features=768, unit=1000, limit=2**33, workers=None, method="gram", copies=2):
    workload = Workload(Arithmetic(method, "float64"), Size(n_features))
    layout = RowLayout((0, n_rows), 2, range(unit, n_rows, unit), lambda rows: copies * rows * n_features * 2)
    return make_plan(workload, layout, Limits(workers, 4, 100 * 2**20, limit))


@pytest.mark.parametrize("n_rows", [2**32 + 1, 10**12, 2**63])
def test_rows_beyond_32_bits_are_planned(n_rows):
    plan = planned(n_rows=n_rows, n_features=1024)
    assert plan.segments == -(-n_rows // plan.grid.segment_rows)
    assert plan.bytes_stored == n_rows * 2048
    assert plan.predicted_peak_bytes < 2**31


@given(st.integers(1, 20_000), st.sampled_from(["gram", "tsqr"]))
def test_a_segment_is_a_power_of_two_of_panels(n_features, method):
    grid = grid_for(Arithmetic(method, "float64"), Size(n_features))
    panels, rest = divmod(grid.segment_rows, grid.panel_rows)
    assert rest == 0
    assert panels & (panels - 1) == 0


@given(
    n_rows=st.integers(1, 5000),
    unit=st.integers(1, 900),
    block_rows=st.integers(1, 1000),
    segment_rows=st.sampled_from([64, 256, 1024]),
)
def test_blocks_cover_every_row_once_and_cut_no_chunk(n_rows, unit, block_rows, segment_rows):
    bounds = range(unit, n_rows, unit)
    cuts = list(block_ranges(bounds, 0, n_rows, block_rows, segment_rows))
    stops = [cut.stop for cut in cuts]
    assert stops[-1] == n_rows
    assert stops == sorted(set(stops))
    assert all(stop % unit == 0 for stop in stops[:-1])
    starts = [cut.start for cut in cuts]
    assert starts == [0, *stops[:-1]]
    for start, stop in zip(starts, stops, strict=True):
        is_one_unit = stop - start <= unit
        assert is_one_unit or stop - start <= block_rows
        assert is_one_unit or start // segment_rows == (stop - 1) // segment_rows


def test_less_memory_means_smaller_blocks_then_fewer_workers():
    generous = planned(limit=2**33)
    tight = planned(limit=generous.predicted_peak_bytes * 2 // 3)
    assert tight.predicted_peak_bytes <= generous.predicted_peak_bytes * 2 // 3
    assert (tight.workers, tight.block_rows) < (generous.workers, generous.block_rows)
    assert tight.grid == generous.grid


def test_too_little_memory_is_refused_with_what_would_fit():
    with pytest.raises(LimitError, match="give memory_limit") as caught:
        planned(limit=2**20)
    wanted = int(str(caught.value).split("memory_limit ")[1].split("MiB")[0])
    assert planned(limit=wanted * 2**20).predicted_peak_bytes <= wanted * 2**20


def test_an_absurd_chunk_is_refused_in_words():
    with pytest.raises(LimitError, match="to read chunks of"):
        planned(n_rows=10**15, unit=10**15)
