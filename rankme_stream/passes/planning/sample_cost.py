"""What a sample is expected to read: the chunks that its units lie in, which are decoded whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rankme_stream.passes.planning.block_layout import largest_unit
from rankme_stream.passes.planning.rare_units import log_miss
from rankme_stream.passes.planning.sample_design import N_REPLICATES, SampleDesign


class SampleCost(NamedTuple):
    """Rows and units of a sample, and the chunks and rows that it is expected to decode.

    ``chunks`` counts runs of rows that are stored together, each as often as it is decoded; where a read may begin at
    any row, it counts units.
    """

    rows: int
    units: int
    chunks: int
    rows_decoded: int


def sample_cost(design: SampleDesign, n_rows: int, bounds: Sequence[int], *, batch_rows: int) -> SampleCost:
    """Return what so many rows of a design, in whole units for all replicates, are expected to cost.

    Parameters
    ----------
    n_rows
        Rows wanted. They are read look by look, and the rows of a look by ``batch_rows`` at once.
    bounds
        Bounds of the source within the rows of the design.

    Notes
    -----
    A chunk that has rows of q of M units is opened by m of them with probability 1 - C(M - q, m)/C(M, m); chunks of c
    rows have rows of (c + U - gcd(c, U))/U units on average. Chunks are taken to be equally long.
    """
    unit_rows = design.unit_rows
    n_units = min(design.n_units, N_REPLICATES * -(-n_rows // (N_REPLICATES * unit_rows)))
    rows = min(design.n_rows, n_units * unit_rows)
    longest, n_chunks = largest_unit(bounds, design.row_start, design.row_stop), len(bounds) + 1
    if longest == 1:
        return SampleCost(rows, n_units, n_units, rows)
    mean = design.n_rows / n_chunks
    is_even = (n_chunks - 1) * longest < design.n_rows  # all but the last are as long
    chunk_rows = longest if is_even else round(mean)
    shared = (chunk_rows + unit_rows - math.gcd(chunk_rows, unit_rows)) / unit_rows  # units that a chunk has rows of
    opened = sum(
        n_chunks * -math.expm1(log_miss(design.n_units, shared, batch))
        for batch in _batches(design.first_look, n_units, max(1, batch_rows // unit_rows))
    )
    return SampleCost(rows, n_units, round(opened), round(opened * mean))


def _batches(first_look: int, n_units: int, most: int) -> Iterator[int]:
    """Yield the units of each batch: of looks that double, each read by batches of ``most`` units."""
    done, look = 0, first_look
    while done < n_units:
        left = min(look, n_units) - done
        yield from (most,) * (left // most)
        if left % most:
            yield left % most
        done += left
        look *= 2
