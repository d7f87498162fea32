"""Sizes of slots, slabs and runs on a card, and what the plan says of their memory."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from rankme_stream.accumulators.method import Arithmetic, Size
from rankme_stream.numerics.machine import Limits
from rankme_stream.passes.planning.block_layout import block_ranges
from rankme_stream.passes.planning.card_layout import SLOT_BYTES, exact_product_rows, run_level, slab_panels, slots
from rankme_stream.passes.planning.grid import grid_for
from rankme_stream.passes.planning.plan import make_plan
from rankme_stream.passes.planning.workload import CardLimits, RowLayout, Workload


@pytest.mark.parametrize("n_features", [1, 2, 33, 256, 768, 1024, 2048, 4096, 65_536])
@pytest.mark.parametrize(("method", "precision"), [("gram", "float64"), ("gram", "float32"), ("tsqr", "float64")])
def test_slabs_are_powers_of_two_of_panels_that_divide_a_segment(n_features, method, precision):
    grid = grid_for(Arithmetic(method, precision), Size(n_features))
    panels = slab_panels(grid.panel_rows, n_features, grid.segment_rows, precision)
    assert 1 <= panels <= 16
    assert grid.segment_rows % (panels * grid.panel_rows) == 0
    assert panels & (panels - 1) == 0
    assert panels == 1 or panels * grid.panel_rows * n_features <= (2**24 if precision == "float64" else 2**26)


@pytest.mark.parametrize("n_features", [1, 256, 768, 4096, 16_384, 65_536])
def test_products_of_16_bit_rows_are_whole_panels_that_divide_a_slab(n_features):
    grid = grid_for(Arithmetic("gram", "float32"), Size(n_features))
    slab_rows = grid.panel_rows * slab_panels(grid.panel_rows, n_features, grid.segment_rows, "float32")
    rows = exact_product_rows(grid.panel_rows, slab_rows)
    assert rows % grid.panel_rows == 0 == slab_rows % rows
    assert rows == (4096 if n_features <= 16_384 else slab_rows)


def test_runs_hold_about_256_mebibytes_and_at_least_a_segment():
    assert run_level(8192, 2 * 768) == 4  # 16 segments of 12 MiB
    assert run_level(2**16, 2 * 256) == 3
    assert run_level(8192, 8 * 65_536) == 0


@pytest.mark.parametrize("workers", [1, 4])
def test_memory_for_a_card_is_that_of_slots_and_does_not_grow_with_workers(workers):
    layout = RowLayout((0, 10**6), 2, range(1024, 10**6, 1024), lambda n_rows: 2 * 768 * n_rows)
    limits = Limits(workers=workers, cores=4, memory_limit_bytes=2**40, base_bytes=0)
    workload = Workload(Arithmetic("gram", "float64"), Size(768, 0, 10**6))
    plan = make_plan(workload, layout, limits, CardLimits(0, has_host=False, itemsize=2))
    assert (plan.segments_at_once, plan.workers, plan.n_slots) == (1, workers, slots(reads_ahead=True))
    assert plan.block_rows * 2 * 768 <= SLOT_BYTES[0]
    in_slots = plan.n_slots * plan.block_rows * 2 * 768
    assert in_slots <= plan.memory["reading"] <= in_slots + workers * 2**23
    assert in_slots <= plan.card["rows"] <= in_slots + 2**28
    there = make_plan(workload, layout, limits, CardLimits(0, has_host=False, itemsize=0))
    assert there.card["rows"] == plan.card["rows"] - in_slots  # rows that lie on the card need no slots


def test_fewer_and_smaller_slots_are_taken_where_memory_is_short():
    layout = RowLayout((0, 10**6), 2, range(1, 10**6), lambda n_rows: 0)
    limits = Limits(workers=2, cores=4, memory_limit_bytes=2**40, base_bytes=0)
    workload, card = Workload(Arithmetic("gram", "float64"), Size(768, 0, 10**6)), CardLimits(0, False, 2)
    widest = make_plan(workload, layout, limits, card)
    small = make_plan(
        workload, layout, replace(limits, memory_limit_bytes=widest.predicted_peak_bytes - 150 * 2**20), card
    )
    assert small.block_rows < widest.block_rows
    assert small.predicted_peak_bytes <= widest.predicted_peak_bytes - 150 * 2**20
    full = make_plan(workload, layout, limits, card._replace(free_bytes=widest.card_peak_bytes - 180 * 2**20))
    assert full.card_peak_bytes <= widest.card_peak_bytes - 180 * 2**20
    assert {small.n_slots, full.n_slots} <= {slots(reads_ahead=True), slots(reads_ahead=False)}
    assert full.grid == small.grid == widest.grid


@pytest.mark.parametrize("seed", [165, *range(20)])  # 165: a chunk straddles the end of a run, beside two short blocks
def test_a_pass_has_no_more_blocks_at_once_than_its_plan_counts(seed):
    draw = Random(seed)
    segment_rows = grid_for(Arithmetic("gram", "float64"), Size(65_536)).segment_rows
    row_bytes = 4 * 65_536
    run_rows = segment_rows << run_level(segment_rows, row_bytes)
    start = run_rows - draw.randrange(1, 400)
    stop = start + draw.randrange(1, 400)
    bounds = sorted({draw.randrange(start, stop) for _ in range(draw.randrange(12))} - {start})
    layout = RowLayout((start, stop), 4, bounds, lambda n_rows: n_rows * row_bytes)
    workload = Workload(Arithmetic("gram", "float64"), Size(65_536))
    plan = make_plan(
        workload,
        layout,
        Limits(workers=1, cores=1, memory_limit_bytes=2**50, base_bytes=0),
        CardLimits(0, has_host=True, itemsize=4),
    )
    blocks = list(block_ranges(bounds, start, stop, plan.block_rows, run_rows))
    slot_rows = max(min(plan.block_rows, stop - start), *(block.stop - block.start for block in blocks))
    assert plan.card["rows"] >= min(plan.n_slots, len(blocks)) * slot_rows * row_bytes
