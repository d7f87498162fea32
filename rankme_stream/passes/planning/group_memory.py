"""Prediction of the most memory that groups hold in a pass, from where their rows lie; pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from rankme_stream.accumulators.method import PANEL_ROWS
from rankme_stream.groups.partition import N_BATCHES, Partition
from rankme_stream.numerics.dtypes import Array
from rankme_stream.numerics.symmetric import triangle_bytes
from rankme_stream.passes.planning.grid import PATIENCE, Grid

_PIECE_BYTES = 250  # Python object of an array, beside its values
_GROUP_BYTES = 700  # of an open group in a node
_CLOSED_BYTES = 2500  # of a closed group
_FRAGMENTATION = 1.1  # factor, since small arrays of all sizes are allocated and freed


@dataclass(frozen=True)
class GroupMemory:
    """Bytes that groups hold.

    Attributes
    ----------
    reading
        Bytes while rows are read and partial results merged.
    waiting
        Bytes of these in partial results that wait for their siblings, from which a state file is written.
    node
        Most bytes in one partial result.
    scoring
        Bytes while scores are computed.
    """

    reading: int
    waiting: int
    node: int
    scoring: int


@dataclass(frozen=True)
class _Level:
    """Nodes of one level: their number, and the bytes of the fullest, in rows and Grams of open groups and in scatters
    of closed ones.
    """

    n_nodes: int
    rows: int
    grams: int
    scatters: int
    n_open: int

    @property
    def matrices(self) -> int:
        return self.grams + self.scatters


class GroupWork(NamedTuple):
    """What is done at once for groups.

    Attributes
    ----------
    collected, waiting
        Number of segments whose rows are being collected, and of those that are not merged yet.
    closing, merges
        Number of threads that close groups, and of merges of partial results.
    scoring
        Number of threads that compute scores.
    """

    collected: int
    waiting: int
    closing: int
    merges: int
    scoring: int

    @classmethod
    def on_host(cls, at_once: int, workers: int) -> GroupWork:
        """Return the work of a pass on the host, which runs that many segments at once on that many threads."""
        return cls(at_once, PATIENCE * at_once, at_once, at_once, workers)


def predict_group_memory(groups: Partition, grid: Grid, n_features: int, itemsize: int, work: GroupWork) -> GroupMemory:
    """Return the bytes that groups hold in a pass over their rows.

    Parameters
    ----------
    itemsize
        Bytes of a value in the rows that are kept.

    Notes
    -----
    A group is open in the nodes of the merge tree that hold some of its rows but not all. Such a node keeps its rows if
    they are no more than the features, and otherwise a Gram matrix. One node of each level waits for its sibling, and
    so do two segments per worker; every worker may be merging two nodes into a third. Rows exist once, whichever nodes
    refer to them.
    """
    row_bytes, square = n_features * itemsize, 8 * n_features**2
    levels = _levels(groups, grid, n_features, itemsize)
    leaf, root, below = levels[0], levels[-1], levels[:-1]
    n_rows = int(groups.counts.sum())
    in_flight = min(work.waiting, leaf.n_nodes)
    rows = min(sum(level.rows for level in below) + in_flight * leaf.rows, n_rows * row_bytes)
    leaves = groups.last // grid.segment_rows - groups.first // grid.segment_rows + 1
    rows += int(np.minimum(groups.counts, leaves).sum()) * _PIECE_BYTES
    rows += (sum(level.n_open for level in below) + in_flight * leaf.n_open) * _GROUP_BYTES
    closed = int((8 * n_features + 48 * np.minimum(groups.counts, n_features) + _CLOSED_BYTES).sum())
    waiting = int(_FRAGMENTATION * (rows + closed)) + in_flight * leaf.matrices + sum(level.matrices for level in below)
    merges = [
        lower.matrices + upper.matrices + upper.scatters + upper.n_open * _GROUP_BYTES  # scatters before and after
        for lower, upper in pairwise(levels)
        for _ in range(min(work.merges, upper.n_nodes))
    ]
    merging = sum(sorted(merges)[-work.merges :]) if merges else root.matrices
    buffers = 2 * work.collected * min(grid.segment_rows, n_rows) * row_bytes
    panels = 8 * (PANEL_ROWS + n_features) * n_features
    scratch = 2 * work.closing * max(9 * square, 4 * square + 2 * panels)  # in workers and shared merges
    return GroupMemory(
        reading=waiting + merging + buffers + scratch,
        waiting=waiting,
        node=max(level.rows + level.grams for level in levels) + closed + root.scatters,
        scoring=int(_FRAGMENTATION * closed) + root.scatters
        + (2 + 3 * min(work.scoring, N_BATCHES)) * 8 * len(groups) * n_features
        + (4 + 8 * min(work.scoring, N_BATCHES)) * square,
    )  # fmt: skip


def _levels(groups: Partition, grid: Grid, n_features: int, itemsize: int) -> list[_Level]:
    first, last = groups.first // grid.segment_rows, groups.last // grid.segment_rows
    begin, end = groups.row_start // grid.segment_rows, (groups.row_stop - 1) // grid.segment_rows
    kept = np.minimum(groups.counts, n_features) * (n_features * itemsize)
    gram, scatter = triangle_bytes(n_features + 1), triangle_bytes(n_features)
    levels: list[_Level] = []
    for level in range((end ^ begin).bit_length() + 1):
        low, high, offset = first >> level, last >> level, begin >> level
        n_nodes, node_rows = (end >> level) - offset + 1, grid.segment_rows << level
        is_open, is_big = low < high, groups.counts > n_features

        def per_node(which: Array, weight: Array, low: Array = low - offset, high: Array = high - offset,
                     n_nodes: int = n_nodes) -> Array:  # fmt: skip
            """Return for each node the sum of a weight over the groups that extend into it."""
            steps = np.zeros(n_nodes + 1)
            np.add.at(steps, low[which], weight[which])
            np.add.at(steps, high[which] + 1, -weight[which])
            return np.asarray(np.cumsum(steps)[:-1])

        ones = np.ones(len(groups))
        in_rows = np.minimum(per_node(is_open, kept), node_rows * n_features * itemsize)
        in_grams = np.minimum(per_node(is_open & is_big, ones), node_rows // (n_features + 1))
        n_closed = int(np.bincount((low - offset)[~is_open], minlength=1).max())
        levels.append(
            _Level(
                n_nodes, int(in_rows.max()), int(in_grams.max()) * gram, min(N_BATCHES, n_closed) * scatter,
                int(min(per_node(is_open, ones).max(), node_rows)),
            )
        )  # fmt: skip
    return levels
