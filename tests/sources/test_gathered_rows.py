"""Rows that lie apart, gathered in memory: where each belongs, and which of them are missing."""

from __future__ import annotations

import numpy as np
import zarr

from rankme_stream.sources import ArraySource, GatheredRows, Source, ZarrSource


def test_runs_have_their_place_and_their_number():
    rows = np.arange(80.0).reshape(40, 2)
    starts = [20, 4, 12, 36]
    wanted = [row for start in starts for row in range(start, min(40, start + 8))]
    gathered = GatheredRows(ArraySource(rows), rows[wanted], starts, 8)
    assert isinstance(gathered, Source)
    assert gathered.shape == (28, 2)
    assert [gathered.row_of(row) for row in range(28)] == wanted
    assert [*gathered.runs()] == [(4, 12), (12, 20), (20, 28), (36, 40)]
    assert [*gathered.pieces(10, 22)] == [(10, 12, 14), (12, 20, 16), (20, 22, 0)]
    assert [*gathered.pieces(28, 36)] == []
    assert [*gathered.pieces(30, 40)] == [(36, 40, 24)]
    assert np.array_equal(gathered.held(13, 17), rows[13:17])
    assert np.array_equal(gathered.read(9, 12), rows[5:8])


def test_missing_rows_have_the_numbers_of_the_gathered_ones(tmp_path):
    array = zarr.create_array(tmp_path / "a", shape=(60, 2), chunks=(10, 2), dtype="f4", fill_value=0)
    for start in (0, 20, 40, 50):  # rows 10-19 and 30-39 are missing
        array[start : start + 10] = 1.0
    source = ZarrSource(str(tmp_path / "a"))
    gathered = GatheredRows(source, np.ones((18, 2), np.float32), [24, 6, 54], 8)  # 24-31, 6-13, 54-55
    assert gathered.missing(0, 18) == []  # none is known yet
    source.read(0, 60)
    assert gathered.missing(0, 18) == [(6, 8), (12, 16)]
    assert gathered.missing(7, 13) == [(7, 8), (12, 13)]
