"""Places of millions of chunks take little memory, also while all are gone through."""

from __future__ import annotations

import tracemalloc

import numpy as np

from rankme_stream.sources.hdf5.chunk_index import ChunkIndex

N = 400_000


def test_gaps_among_many_chunks_are_found_piece_by_piece():
    index, numbers = ChunkIndex(N * 100), np.delete(np.arange(N), [5, 6, 7, 399_999])
    for some in np.array_split(numbers, 50):
        index.add(np.stack([some, some * 100, np.full(len(some), 100), np.zeros(len(some), np.int64)]))
    index.close()
    tracemalloc.start()
    assert index.gaps(0, N) == [(5, 8), (399_999, 400_000)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < N * 32 * 0.75  # all places unpacked take 32 bytes a chunk; sixteen pieces of 16,384 stay unpacked
