"""Indexes that faiss writes: flat ones are read as faiss reads them, and others are refused."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

import rankme_stream as rs

ROWS = np.random.default_rng(0).standard_normal((203, 16)).astype(np.float32)
METRICS = [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2, faiss.METRIC_L1, faiss.METRIC_Lp, faiss.METRIC_Canberra]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("with_ids", [False, True])
def test_flat_indexes_are_read_to_the_same_bits(tmp_path: Path, metric: int, with_ids: bool) -> None:
    index = faiss.IndexFlat(16, metric)
    if with_ids:
        mapped = faiss.IndexIDMap2(index) if metric else faiss.IndexIDMap(index)
        mapped.add_with_ids(ROWS, np.arange(203) * 7)
        index = mapped
    else:
        index.add(ROWS)
    faiss.write_index(index, str(tmp_path / "dump.index"))
    np.testing.assert_array_equal(rs.open_source(tmp_path / "dump.index").read(0, 203), ROWS)


@pytest.mark.parametrize("kind", ["HNSW8", "IVF4,Flat", "PQ4x4", "SQ8", "PCA8,Flat", "LSH"])
def test_other_indexes_are_refused(tmp_path: Path, kind: str) -> None:
    index = faiss.index_factory(16, kind)
    index.train(ROWS)
    index.add(ROWS)
    faiss.write_index(index, str(tmp_path / "dump.faiss"))
    with pytest.raises(rs.errors.SourceFormatError, match="and flat ones are read"):
        rs.open_source(tmp_path / "dump.faiss")
