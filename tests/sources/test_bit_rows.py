"""Packed bits are read as features of -1 and +1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import SourceFormatError
from rankme_stream.sources import Source, open_source
from rankme_stream.testing import SourceLaws

SIGNS = np.where(np.random.default_rng(0).standard_normal((333, 44)) > 0, 1, -1).astype("i1")
PACKED = np.packbits(SIGNS > 0, axis=1)


class TestBitRows(SourceLaws):
    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        self.path = tmp_path / "a.zarr"
        zarr.create_array(self.path, shape=PACKED.shape, dtype="u1", chunks=(50, 6))[:] = PACKED

    def make(self) -> Source:
        return open_source(self.path, decode="bits:44")

    def expected(self) -> np.ndarray:
        return SIGNS


def test_packed_bits_have_the_numbers_of_their_signs(tmp_path):
    np.save(tmp_path / "unsigned.npy", PACKED)
    np.save(tmp_path / "signed.npy", (PACKED.astype("i2") - 128).astype("i1"))  # as some libraries write them
    wanted = rs.measure(SIGNS)
    for name in ("unsigned", "signed"):
        found = rs.measure(open_source(tmp_path / f"{name}.npy", decode="bits:44"), groups="rows:111", dims=(8,))
        assert found.rankme == wanted.rankme
        assert found.source["decoding"].startswith("int8, -1 and +1 for the bits of ")
    assert open_source(tmp_path / "unsigned.npy", decode="bits").shape == (333, 48)
    assert open_source(tmp_path / "unsigned.npy", decode="bits").fingerprint(0, 9) != open_source(
        tmp_path / "unsigned.npy", decode="bits:44"
    ).fingerprint(0, 9)


@pytest.mark.parametrize(
    ("dtype", "rule", "match"),
    [
        ("f4", "bits", "holds float32"),
        ("i2", "bits", "holds int16"),
        ("u1", "bits:40", "40 bits take 5"),
        ("u1", "bits:49", "49 bits take 7"),
    ],
)
def test_what_is_not_packed_bits_is_refused(tmp_path, dtype, rule, match):
    np.save(tmp_path / "a.npy", PACKED.astype(dtype))
    with pytest.raises(SourceFormatError, match=match):
        open_source(tmp_path / "a.npy", decode=rule)


def test_declared_scales_and_bits_contradict(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=PACKED.shape, dtype="u1", attributes={"scale_factor": 0.5})
    array[:] = PACKED
    with pytest.raises(SourceFormatError, match="declares scale_factor, which bits do not have"):
        open_source(tmp_path / "a.zarr", decode="bits")
