"""Our sources keep the laws that third-party sources are held to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from rankme_stream.sources import ArraySource, NpySource, Source, ZarrSource, open_source
from rankme_stream.testing import SourceLaws
from tests.bytes_file import ROWS as TORCH_ROWS
from tests.bytes_file import TORCH_FILES, bin_bytes, npz_bytes, safetensors_bytes, vecs_bytes

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


class TestDenseFormats(TestArraySource):
    """Files of formats that we parse ourselves: gaps between rows, members of zip files, views of storages."""

    @pytest.fixture(autouse=True, params=["stored.npz", "deflated.npz", "rows.fvecs", "rows.hbin", "rows.safetensors"])
    def _write(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.path = tmp_path / request.param
        self.path.write_bytes(
            {
                "stored.npz": npz_bytes(emb=ROWS),
                "deflated.npz": npz_bytes(compressed=True, emb=ROWS),
                "rows.fvecs": vecs_bytes(ROWS.astype("<f4")),
                "rows.hbin": bin_bytes(ROWS),
                "rows.safetensors": safetensors_bytes(emb=("F16", ROWS)),
            }[request.param]
        )

    def make(self) -> Source:
        return open_source(self.path)

    def expected(self) -> np.ndarray:
        return ROWS.astype("f4") if self.path.suffix == ".fvecs" else ROWS


class TestTorchView(TestArraySource):
    def make(self) -> Source:
        return open_source(f"{TORCH_FILES}/tensors.pt::slice")

    def expected(self) -> np.ndarray:
        return TORCH_ROWS
