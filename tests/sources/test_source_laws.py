"""Our sources keep the laws that third-party sources are held to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from rankme_stream.sources import ArraySource, NpySource, Source, ZarrSource
from rankme_stream.testing import SourceLaws

ROWS = np.random.default_rng(3).standard_normal((103, 12)).astype(np.float16)


class TestArraySource(SourceLaws):
    def make(self) -> Source:
        return ArraySource(ROWS)

    def expected(self) -> np.ndarray:
        return ROWS


class TestNpySource(TestArraySource):
    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        self.path = tmp_path / "rows.npy"
        np.save(self.path, ROWS)

    def make(self) -> Source:
        return NpySource(str(self.path))


class TestZarrSource(TestArraySource):
    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        self.path = tmp_path / "rows.zarr"
        array = zarr.create_array(self.path, shape=ROWS.shape, dtype="f2", chunks=(5, 4), shards=(20, 12))
        array[:] = ROWS

    def make(self) -> Source:
        return ZarrSource(str(self.path))
