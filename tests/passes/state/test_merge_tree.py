"""The merge tree has one shape, whatever the order in which segments finish."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankme_stream.errors import UsageError
from rankme_stream.passes.state.merge_tree import MergeTree


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
