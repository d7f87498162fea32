"""Batches of a sample: units that are held in memory together, equally many of each replicate, and the reads for them.

Units are too small to be segments of a pass: a product and a merge of 16 rows each would cost more than all else. So
the units of a batch are gathered, and the rows of one replicate make up one segment. The rows of a segment depend on
the design and the stored type alone, so neither memory nor workers nor chunks change a bit.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rankme_stream.passes.planning.sample_design import MANY_ROWS, N_REPLICATES, SampleDesign

KEPT_ROWS = 4  # per feature
_STAGED_BYTES = 2**26  # of the rows of a batch; more only for a first look, whose replicates take more in any case
_READING_BYTES = 2**26  # of reads that wait for storage
_READERS = 8  # per worker, of reads that wait for storage


@dataclass(frozen=True)
class SampleBatch:
    """Units of a batch.

    Attributes
    ----------
    replicates
        Replicates in the order of their segments: the one that holds a unit cut by the end of the rows comes last.
    units
        Units of each of them, ascending.
    """

    replicates: Sequence[int]
    units: Sequence[Sequence[int]]


def segment_rows(design: SampleDesign, row_bytes: int) -> int:
    """Return the most rows of a replicate in a batch, whole units: a first look, or more if they fit 64 MiB in all."""
    fit = _STAGED_BYTES // (N_REPLICATES * design.unit_rows * row_bytes)
    units = min(max(design.first_look // N_REPLICATES, fit), -(-design.n_units // N_REPLICATES))
    return max(1, units) * design.unit_rows


def units_kept(design: SampleDesign) -> int:
    """Return how many units, the first of the random order, stay in memory: 4 D rows where few are read, or none."""
    if design.rows_per_feature >= MANY_ROWS:
        return 0
    units = math.ceil(KEPT_ROWS * design.n_features / design.unit_rows)
    return min(design.n_units, N_REPLICATES * -(-units // N_REPLICATES))


def batches(design: SampleDesign, start: int, stop: int, segment_rows: int) -> Iterator[SampleBatch]:
    """Yield the batches of units ``start`` to ``stop`` - 1 of the random order.

    Where some replicates have a unit more than others, these units are a batch of their own.
    """
    of_replicate: list[list[int]] = [[] for _ in range(N_REPLICATES)]
    for unit, replicate in design.units(start, stop).items():
        of_replicate[replicate].append(unit)
    order = sorted(range(N_REPLICATES), key=lambda replicate: design.n_units - 1 in of_replicate[replicate][-1:])
    n_units, least = segment_rows // design.unit_rows, min(map(len, of_replicate))
    for first in range(0, least, n_units):
        last = min(least, first + n_units)
        yield SampleBatch(order, [of_replicate[replicate][first:last] for replicate in order])
    longer = [replicate for replicate in order if len(of_replicate[replicate]) > least]
    if longer:
        yield SampleBatch(longer, [of_replicate[replicate][least:] for replicate in longer])


def chunk_reads(
    runs: Iterable[tuple[int, int]], bounds: Sequence[int], most_rows: int, row_stop: int
) -> Iterator[tuple[int, int]]:
    """Yield the reads [start, stop) that give some runs of rows, ascending, and decode no chunk twice.

    A read holds all that is wanted of a chunk; it goes on into the next chunk if rows are wanted up to there and from
    there, and all of it is at most ``most_rows`` long.
    """
    read: tuple[int, int] | None = None
    for start, stop in runs:
        while start < stop:
            if read is not None and start < edge_after(read[1], bounds, row_stop):  # in the chunk read last
                end = min(stop, edge_after(read[1], bounds, row_stop))
                read = read[0], end
            else:
                begin, end = start if read is None or read[1] < start else read[0], stop
                if edge_after(stop, bounds, row_stop) - begin > most_rows:
                    end = min(stop, _edge_before(begin + most_rows, bounds, begin))
                    if end <= start:
                        begin, end = start, min(stop, edge_after(start + 1, bounds, row_stop))
                if read is not None and begin == start:
                    yield read
                read = begin, end
            start = end
    if read is not None:
        yield read


def rows_decoded(reads: Sequence[tuple[int, int]], bounds: Sequence[int], rows: tuple[int, int]) -> int:
    """Return the number of rows in the chunks of some reads of rows [A, B), all of which are decoded."""
    return sum(edge_after(stop, bounds, rows[1]) - _edge_before(start, bounds, rows[0]) for start, stop in reads)


def most_readers(workers: int, read_bytes: int, *, reads_ahead: bool) -> int:
    """Return the most reads at once: one a worker where reads compute, more where they wait for storage."""
    if not reads_ahead:
        return workers
    return max(2 * workers, min(_READERS * workers, _READING_BYTES // max(1, read_bytes)))


def edge_after(stop: int, bounds: Sequence[int], last: int) -> int:
    """Return the end of the chunk that holds row ``stop`` - 1."""
    index = bisect_right(bounds, stop - 1)
    return bounds[index] if index < len(bounds) else last


def _edge_before(row: int, bounds: Sequence[int], first: int) -> int:
    index = bisect_right(bounds, row)
    return bounds[index - 1] if index else first
