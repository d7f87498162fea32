"""Cells are numbered chunk by chunk, and every number is found again."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankme_stream.sources.storage_order import Axis, StorageOrder, boxes


@st.composite
def axes(draw: st.DrawFn) -> tuple[Axis, list[int]]:
    """An axis, and where its chunks begin and the axis ends."""
    runs = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3))
    edges = [step for step, count in runs for _ in range(count)]
    length = draw(st.integers(1, sum(edges)))
    starts = [0, *itertools.accumulate(edges)]
    return Axis(length, runs), [start for start in starts if start < length] + [length]


@given(axes())
def test_an_axis_knows_its_chunks(drawn: tuple[Axis, list[int]]) -> None:
    axis, edges = drawn
    assert axis.n_chunks == len(edges) - 1
    assert [axis.start(i) for i in range(len(edges))] == edges
    extents = [after - before for before, after in itertools.pairwise(edges)]
    assert [axis.extent(i) for i in range(axis.n_chunks)] == extents
    assert [axis.find(offset) for offset in range(axis.length)] == np.repeat(range(axis.n_chunks), extents).tolist()
    stored = [axis.stored(i) for i in range(axis.n_chunks)]
    assert stored[:-1] == extents[:-1] and stored[-1] >= extents[-1]
    assert (axis.longest, set(stored)) == (max(stored), axis.lengths())
    assert axis.shortest <= min(extents) and axis.step in (0, *axis.lengths())


@given(st.lists(axes(), min_size=1, max_size=4))
def test_cells_are_numbered_chunk_by_chunk(drawn: list[tuple[Axis, list[int]]]) -> None:
    order = StorageOrder([axis for axis, _ in drawn])
    shape = [axis.length for axis in order.axes]
    cell, chunk = 0, 0
    for corner in itertools.product(*(range(axis.n_chunks) for axis in order.axes)):
        extents = tuple(axis.extent(i) for axis, i in zip(order.axes, corner, strict=True))
        assert order.coordinates(chunk) == corner and order.number(corner) == chunk
        assert order.start(chunk) == cell and order.extents(chunk) == extents
        assert order.find(cell) == chunk == order.find(cell + int(np.prod(extents)) - 1)
        cell, chunk = cell + int(np.prod(extents)), chunk + 1
    assert (cell, chunk) == (np.prod(shape), order.n_chunks) == (order.n_cells, order.n_chunks)
    assert order.start(chunk) == cell


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_boxes_make_up_consecutive_cells(lengths: list[int], data: st.DataObject) -> None:
    cells = np.arange(np.prod(lengths)).reshape(lengths)
    start = data.draw(st.integers(0, cells.size))
    stop = data.draw(st.integers(start, cells.size))
    found = [cells[box].ravel() for box in boxes(lengths, start, stop)]
    assert np.concatenate([*found, np.empty(0, int)]).tolist() == list(range(start, stop))
    assert len(found) <= 2 * len(lengths) - 1


@pytest.mark.parametrize("runs", [[(10, 1)], [(10, 10**15), (7, 10**15)]])
def test_the_number_of_chunks_takes_no_memory(runs: list[tuple[int, int]]) -> None:
    tracemalloc.start()
    axis = Axis(10**16, runs)
    order = StorageOrder([axis, Axis.regular(10**2, 3)])
    assert order.find(order.start(123_456_789)) == 123_456_789 and axis.n_chunks == 10**15
    assert tracemalloc.get_traced_memory()[1] < 2**16
    tracemalloc.stop()
