"""The merge tree has one shape, whatever the order in which segments finish."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankme_stream.errors import UsageError
from rankme_stream.passes.state.merge_tree import MergeTree, nodes_of, span


class Node:
    def __init__(self, text: str) -> None:
        self.text = text

    def merge(self, other: Node) -> Node:
        return Node(f"({self.text} {other.text})")


@given(first=st.integers(0, 40), count=st.integers(1, 33), data=st.data())
def test_any_order_of_segments_gives_one_tree(first, count, data):
    indices = range(first, first + count)
    order = data.draw(st.permutations(indices))
    in_order, shuffled = MergeTree(), MergeTree()
    for index in indices:
        in_order.add(index, Node(str(index)))
    for index in order:
        shuffled.add(index, Node(str(index)))
    total = shuffled.total().text
    assert total == in_order.total().text
    assert [int(word.strip("()")) for word in total.split()] == list(indices)


def test_siblings_merge_at_once_so_that_few_values_live():
    tree = MergeTree()
    for index in range(1000):
        tree.add(index, Node("x"))
        assert tree.n_live == (index + 1).bit_count()


def test_a_segment_counts_once():
    tree = MergeTree()
    for index in range(4):
        tree.add(index, Node("x"))
    with pytest.raises(UsageError, match="in the tree already"):
        tree.add(2, Node("x"))


def test_an_empty_tree_has_no_total():
    with pytest.raises(UsageError, match="no segment"):
        MergeTree().total()


@given(first=st.integers(0, 70), count=st.integers(1, 70), level=st.integers(0, 4), cut=st.integers(0, 150) | st.none())
def test_runs_are_the_largest_nodes_that_make_up_the_segments(first, count, level, cut):
    nodes = list(nodes_of(range(first, first + count), level, cut))
    assert [segment for node in nodes for segment in span(node)] == list(range(first, first + count))
    assert all(node[0] <= level for node in nodes)
    assert not any(cut is not None and span(node).start < cut < span(node).stop for node in nodes)
    for (size, index), (other_size, other) in pairwise(nodes):
        is_pair = size == other_size < level and index ^ 1 == other == index + 1
        assert not is_pair or span((size + 1, index >> 1)).start < (cut or 0) < span((size + 1, index >> 1)).stop


@pytest.mark.parametrize("tail", [None, 5, 8])
def test_trees_filled_with_runs_are_those_filled_with_segments(tail):
    by_segment, by_run = MergeTree(tail), MergeTree(tail)
    for index in range(1, 12):
        by_segment.add(index, Node(str(index)))
    for node in nodes_of(range(1, 12), 3, tail):
        run = MergeTree()
        for index in span(node):
            run.add(index, Node(str(index)))
        by_run.add_node(node, run.total())
    assert by_run.total().text == by_segment.total().text
    assert {node: value.text for node, value in by_run.snapshot().items()} == {
        node: value.text for node, value in by_segment.snapshot().items()
    }
