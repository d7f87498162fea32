"""What a sample is expected to read: the chunks that its units lie in, which are decoded whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rankme_stream.passes.planning.block_layout import largest_unit
from rankme_stream.passes.planning.rare_units import log_miss
from rankme_stream.passes.planning.sample_design import N_REPLICATES, SampleDesign


class SampleCost(NamedTuple):
    """Rows and units of a sample, and the chunks and rows that it is expected to decode.

    ``chunks`` counts runs of rows that are stored together, each decoded once; units where a read may begin at any row.
    """

    rows: int
    units: int
    chunks: int
    rows_decoded: int


def sample_cost(design: SampleDesign, n_rows: int, bounds: Sequence[int]) -> SampleCost:
    """Return what so many rows of a design, in whole units for all replicates, are expected to cost.

    Parameters
    ----------
    n_rows
        Rows wanted; with those of all units, the whole range is read.
    bounds
        Bounds of the source within the rows of the design.

    Notes
    -----
    A chunk that has rows of q of M units is opened by m of them with probability 1 - C(M - q, m)/C(M, m). Chunks are
    taken to be equally long.
    """
    n_units = min(design.n_units, N_REPLICATES * -(-n_rows // (N_REPLICATES * design.unit_rows)))
    rows = min(design.n_rows, n_units * design.unit_rows)
    longest, n_chunks = largest_unit(bounds, design.row_start, design.row_stop), len(bounds) + 1
    if longest == 1:
        return SampleCost(rows, n_units, n_units, rows)
    mean = design.n_rows / n_chunks
    chunk_rows = longest if (n_chunks - 1) * longest < design.n_rows else mean  # all but the last are as long
    shared = chunk_rows / design.unit_rows  # units that a chunk has rows of
    if chunk_rows % design.unit_rows:
        shared += 1.0 - 1.0 / design.unit_rows
    opened = n_chunks * -math.expm1(log_miss(design.n_units, max(1.0, shared), n_units))
    return SampleCost(rows, n_units, round(opened), round(opened * mean))
