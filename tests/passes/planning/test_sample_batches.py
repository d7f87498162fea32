"""Batches of a sample, and the reads for them: every unit once, no chunk twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankme_stream.passes.planning import sample_batches
from rankme_stream.passes.planning.sample_design import N_REPLICATES, draw_design
from rankme_stream.sources import JoinedBounds


@given(
    gaps=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), min_size=1, max_size=20),
    chunk_rows=st.integers(1, 60),
    most_rows=st.integers(1, 100),
    rest=st.integers(0, 50),
)
def test_reads_hold_every_row_that_is_wanted_and_decode_no_chunk_twice(gaps, chunk_rows, most_rows, rest):
    runs, row = [], 0
    for gap, n_rows in gaps:
        runs.append((row + gap, row + gap + n_rows))
        row += gap + n_rows
    stop = row + rest
    bounds = range(chunk_rows, stop, chunk_rows)
    most_rows = max(most_rows, min(chunk_rows, stop))
    reads = list(sample_batches.chunk_reads(runs, bounds, most_rows, stop))
    wanted = {row for start, end in runs for row in range(start, end)}
    assert [row for start, end in reads for row in range(start, end) if row in wanted] == sorted(wanted)
    assert all({start, end - 1} <= wanted for start, end in reads)
    assert all(end - start <= most_rows for start, end in reads)
    chunks = [chunk for start, end in reads for chunk in range(start // chunk_rows, (end - 1) // chunk_rows + 1)]
    assert len(chunks) == len(set(chunks))
    decoded = sum(min(stop, (chunk + 1) * chunk_rows) - chunk * chunk_rows for chunk in chunks)
    assert sample_batches.rows_decoded(reads, bounds, (0, stop)) == decoded


def test_rows_side_by_side_are_read_together_where_a_read_may_begin_at_any_row():
    runs = [(0, 16), (16, 32), (32, 48), (100, 116)]
    assert [*sample_batches.chunk_reads(runs, range(1, 200), 40, 200)] == [(0, 40), (40, 48), (100, 116)]
    joined = JoinedBounds([(0, 20, range(1, 20)), (20, 200, range(60, 200, 40))])
    assert [*sample_batches.chunk_reads(runs, joined, 60, 200)] == [(0, 48), (100, 116)]


@pytest.mark.parametrize(("n_rows", "n_features"), [(4_001, 64), (3_003, 4), (40_003, 768)])
def test_every_unit_is_in_one_batch_and_only_the_last_segment_may_be_short(n_rows, n_features):
    for seed in range(4):
        design = draw_design(rows=(3, n_rows), n_features=n_features, seed=seed)
        n_units = design.n_units // N_REPLICATES * N_REPLICATES
        rows = 3 * design.unit_rows
        batches = list(sample_batches.batches(design, 0, n_units, rows))
        found = {}
        for batch in batches:
            assert {len(units) for units in batch.units} == {len(batch.units[0])}
            assert len(batch.units[0]) * design.unit_rows <= rows
            found |= {
                unit: replicate
                for units, replicate in zip(batch.units, batch.replicates, strict=True)
                for unit in units
            }
            assert all([*units] == sorted(units) for units in batch.units)
            cut = [unit for units in batch.units for unit in units if unit == design.n_units - 1]
            assert not cut or batch.units[-1][-1] == cut[0]
        assert found == design.units(0, n_units)
        assert sum(len(units) for batch in batches for units in batch.units) == n_units


def test_a_batch_holds_a_first_look_and_at_most_64_mebibytes_beyond_it():
    for n_features in (4, 64, 768, 8_192):
        design = draw_design(rows=(0, 10**7), n_features=n_features, seed=0)
        rows = sample_batches.segment_rows(design, 4 * n_features)
        first_look = design.first_look // N_REPLICATES * design.unit_rows
        assert rows % design.unit_rows == 0
        assert rows >= first_look
        assert rows == first_look or 16 * rows * 4 * n_features <= 2**26
    small = draw_design(rows=(0, 1000), n_features=4, seed=0)
    assert sample_batches.segment_rows(small, 16) == -(-small.n_units // N_REPLICATES) * small.unit_rows


def test_more_reads_at_once_take_no_more_than_64_mebibytes_or_twice_those_of_the_workers():
    assert sample_batches.most_readers(3, 2**20, reads_ahead=False) == 3
    assert sample_batches.most_readers(2, 2**20, reads_ahead=True) == 16
    assert sample_batches.most_readers(2, 2**23, reads_ahead=True) == 8
    assert sample_batches.most_readers(2, 2**30, reads_ahead=True) == 4
