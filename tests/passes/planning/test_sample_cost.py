"""What a sample is expected to decode, against samples that are drawn."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import pytest

from rankme_stream.passes.planning.sample_cost import sample_cost
from rankme_stream.passes.planning.sample_design import draw_design


def opened(design, bounds, n_units):
    return {
        chunk
        for start, stop in map(design.rows, design.units(0, n_units))
        for chunk in range(bisect_right(bounds, start), bisect_right(bounds, stop - 1) + 1)
    }


@pytest.mark.parametrize("chunk_rows", [8, 64, 100, 1000, 30_000])
@pytest.mark.parametrize("rare", [0.01, 0.05])
def test_the_expected_chunks_are_those_of_drawn_samples(chunk_rows, rare):
    n_rows, first = 80_000, 4096
    bounds = range(first + chunk_rows, first + n_rows, chunk_rows)
    drawn = []
    for seed in range(6):
        design = draw_design(rows=(first, first + n_rows), n_features=384, seed=seed, rare=rare)
        drawn.append(len(opened(design, bounds, design.first_look)))
    cost = sample_cost(design, design.first_look * design.unit_rows, bounds, batch_rows=10**6)
    assert cost.units == design.first_look
    assert cost.chunks == pytest.approx(np.mean(drawn), rel=0.05)
    assert cost.rows_decoded == pytest.approx(cost.chunks * chunk_rows, rel=0.05, abs=chunk_rows)


def test_rows_that_are_stored_apart_cost_no_more_than_they_are():
    design = draw_design(rows=(0, 40_000), n_features=128, seed=0)
    cost = sample_cost(design, 1280, range(1, 40_000), batch_rows=100)
    assert cost == (1280, 640, 640, 1280)


@pytest.mark.parametrize(
    ("n_rows", "batch_rows", "batches"),
    [(640, 10_000, (640,)), (641, 10_000, (640, 16)), (2560, 10_000, (640, 640, 1280)), (1280, 512, (512, 128) * 2)],
)
def test_a_chunk_counts_again_in_each_look_and_batch(n_rows, batch_rows, batches):
    design = draw_design(rows=(0, 40_000), n_features=64, seed=0)
    bounds = sorted({*range(7, 3000, 7), *range(3000, 40_000, 900)})
    cost = sample_cost(design, n_rows, bounds, batch_rows=batch_rows)
    alone = [sample_cost(design, one, bounds, batch_rows=10**6).chunks for one in batches if one <= 640]
    assert design.unit_rows == 1
    assert cost.rows == sum(batches)
    if 1280 not in batches:
        assert cost.chunks == pytest.approx(sum(alone), abs=2)
    assert cost.chunks > alone[0] or len(batches) == 1
