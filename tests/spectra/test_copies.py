"""Copies in other units are found whatever the mean and the spectrum of the rows, and rows alike by chance are not."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from rankme_stream.spectra.contour import NoEstimateError
from rankme_stream.spectra.copies import Copies, find_copies
from rankme_stream.spectra.held_out_units import RotatedRows


def copies_of(rows: np.ndarray, unit: np.ndarray) -> Copies:
    values, vectors = np.linalg.eigh(rows.T @ rows)
    return find_copies(RotatedRows.rotate(values, vectors, len(rows), rows), unit)


def rows_about_a_mean(n_rows: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    scale = np.arange(1, 41) ** -1.0
    return (generator.standard_normal((n_rows, 40)) + 10.0) * scale


def test_independent_rows_have_no_copies_though_their_mean_makes_them_parallel():
    found = copies_of(rows_about_a_mean(160), np.repeat(np.arange(40), 4))
    assert found.pairs_per_row == found.close_pairs_per_row == 0.0
    assert [unit.own.tolist() for unit in found.units[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert all(unit.copies.size == 0 for unit in found.units)


def test_copies_of_other_units_are_found_and_those_of_the_own_unit_are_not():
    rows = rows_about_a_mean(160)
    rows[7], rows[9], rows[100] = rows[0], rows[8], rows[1] + 0.2 * rows_about_a_mean(1, 9)[0] - 2.0 / np.arange(1, 41)
    unit = np.repeat(np.arange(40), 4)[::-1].copy()  # the numbers of units need not ascend
    found = copies_of(rows, unit)
    units = {int(unit[one.own[0]]): one.copies.tolist() for one in found.units}
    assert units.pop(39) == [7, 100]  # rows 0 to 3
    assert units.pop(38) == [0]  # rows 4 to 7
    assert units.pop(14) == [1]  # rows 100 to 103
    assert not any(units.values())  # rows 8 and 9 are of one unit
    assert found.pairs_per_row == pytest.approx(2 / 160)


def test_near_copies_are_left_out_but_only_close_ones_count_as_copies():
    generator = np.random.default_rng(3)
    rows = generator.standard_normal((200, 40))
    for noise, close in ((0.1, 0.5), (0.6, 0.0)):
        twice = np.concatenate([rows[:100], rows[:100] + noise * rows[100:]])
        found = copies_of(twice, np.arange(200))
        assert found.pairs_per_row == pytest.approx(0.5, abs=0.05)
        assert found.close_pairs_per_row == pytest.approx(close, abs=0.1)


def test_rows_that_are_zero_are_no_copies():
    rows = rows_about_a_mean(100)
    rows[[3, 50]] = 0.0
    assert copies_of(rows, np.arange(100)).pairs_per_row == 0.0


def test_rows_that_are_all_alike_are_refused_before_their_pairs_fill_the_memory():
    rows = np.ones((2500, 1))  # 6 million pairs
    tracemalloc.start()
    with pytest.raises(NoEstimateError, match="like more than 64 others"):
        copies_of(rows, np.arange(2500))
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()
