"""A stream of blocks: the same bits as the same rows stored."""

from __future__ import annotations

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import (
    LimitError,
    NonFiniteError,
    SourceError,
    SourceFormatError,
    ToleranceWarning,
    UsageError,
)

D = 700  # segments of 16,384 rows: the stream below is three windows of one worker


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((36_000, D), dtype=np.float32).astype(np.float16)


def blocks(rows: np.ndarray, *cuts: int):
    yield from np.split(rows, cuts)


def numbers(found: rs.Measurement) -> list[rs.Estimate]:
    return [one for table in (found.estimates, found.normalized, *found.dims.values()) for one in table.values()]


@pytest.mark.parametrize("options", [{}, {"method": "tsqr"}, {"precision": "float32"}, {"workers": 1}, {"workers": 5}])
def test_blocks_have_the_bits_of_the_rows_stored(rows, options):
    wanted = rs.measure(rows, normalize=True, dims=(7,), **options)
    found = rs.measure(blocks(rows, 1, 1, 5000, 20_001, 35_999), normalize=True, dims=(7,), **options)
    for ours, theirs in zip(numbers(found), numbers(wanted), strict=True):
        if "precision" in options:  # other probes: the values are the same, their intervals nearly so
            assert ours.value == theirs.value
            assert ours.lower is None or (ours.lower <= theirs.upper and theirs.lower <= ours.upper)
        else:
            assert ours == theirs
    assert (found.rows_read, found.audit, found.plan.segments) == (len(rows), wanted.audit, wanted.plan.segments)
    assert found.source["n_rows"] == len(rows)
    assert (found.plan.bytes_stored, found.plan.flops) == (wanted.plan.bytes_stored, wanted.plan.flops)


def test_a_list_of_arrays_is_blocks(rows):
    assert rs.measure([rows[:100], rows[100:3000]]).estimates == rs.measure(rows[:3000]).estimates


def test_a_bad_row_is_named_by_its_place_in_the_stream(rows):
    bad = rows.copy()
    bad[34_001, 2] = np.inf
    with pytest.raises(NonFiniteError, match="row 34,001 is not finite"):
        rs.measure(blocks(bad, 17_000))
    found = rs.measure(blocks(bad, 17_000), nonfinite="skip")
    assert (found.audit.rows_nonfinite, found.audit.first_nonfinite) == (1, 34_001)
    assert found.estimates == rs.measure(bad, nonfinite="skip").estimates


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "holds no row"),
        ([np.ones((0, 3))], "holds no row"),
        ([np.ones((2, 3)), np.ones(3)], r"block 1 has shape \(3,\)"),
        ([np.ones((2, 3)), np.ones((2, 4))], "block 1 is float64 of width 4, and the first was float64 of width 3"),
        ([np.ones((2, 3)), np.ones((2, 3), np.float32)], "block 1 is float32 of width 3"),
        ([np.ones((2, 3), complex)], "complex128"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(given, text):
    with pytest.raises(SourceFormatError, match=text):
        rs.measure(iter(given))


def test_nothing_left_is_refused():
    with pytest.raises(SourceError, match="no row is left"):
        rs.measure([np.full((2, 3), np.nan)], nonfinite="skip")


@pytest.mark.parametrize("options", [{"sample": True}, {"population": True}, {"rows": (0, 1)}])
def test_blocks_refuse_options_that_need_rows_out_of_order(options):
    with pytest.raises(UsageError, match="read once and in order"):
        rs.measure(iter([np.ones((2, 3))]), **options)


def test_blocks_cannot_be_read_again_and_it_is_said():
    rows = np.random.default_rng(0).standard_normal((500, 6)) * np.array([1, 1, 1, 1e-8, 1e-8, 1e-8])
    with pytest.warns(ToleranceWarning, match='a stream is read once; pass method="tsqr"'):
        found = rs.measure(iter([rows]), tolerance=1e-9)
    assert found.method == "gram"
    assert rs.measure(iter([rows]), tolerance=1e-9, method="tsqr").tolerance_met


def test_an_object_that_is_an_array_is_not_taken_for_blocks():
    class Tensor:
        def __array__(self):
            raise AssertionError("not read")

        def __iter__(self):
            return iter([])

    with pytest.raises(SourceFormatError, match="rows cannot be read from a Tensor"):
        rs.measure(Tensor())


def test_blocks_may_come_in_the_same_memory(rows):
    def loader():
        buffer = np.empty((700, D), np.float16)
        for start in range(0, 2800, 700):
            buffer[:] = rows[start : start + 700]
            yield buffer

    assert rs.measure(loader()).estimates == rs.measure(rows[:2800]).estimates


def test_masked_blocks_are_refused(rows):
    with pytest.raises(SourceFormatError, match="block 1 is a masked array"):
        rs.measure([rows[:5], np.ma.masked_array(rows[5:9])])


def test_memory_for_blocks_is_planned_before_the_first_is_kept(rows):
    taken = []

    def loader():
        for start in range(0, len(rows), 1000):
            taken.append(start)
            yield rows[start : start + 1000]

    with pytest.raises(LimitError, match="give memory_limit"):
        rs.measure(loader(), memory_limit=2**20)
    assert taken == [0]
    for workers in (0, -1):
        with pytest.raises(UsageError, match=f"workers is {workers}"):
            rs.measure(loader(), workers=workers)
