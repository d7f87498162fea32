"""Data sets that h5py has open: the bits of the array, and refusals where fill values would stand for rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import SourceFormatError, UsageError
from rankme_stream.sources import open_source

h5py = pytest.importorskip("h5py")
ROWS = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        yield opened


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 12)}, {"chunks": (70, 5), "compression": "gzip"}])
def test_an_open_data_set_has_the_bits_of_the_array(file: Any, options: dict[str, Any]) -> None:
    held = file.create_dataset("g/rows", data=ROWS, **options)
    assert open_source(held).read(13, 260).tobytes() == ROWS[13:260].tobytes()
    assert rs.measure(held, workers=3).estimates == rs.measure(ROWS).estimates
    turned = file.create_dataset("turned", data=ROWS.T.astype(">f4"))
    assert open_source(turned, features_axis=0).read(0, 300).tobytes() == ROWS.tobytes()


def test_what_was_never_written_is_refused(file: Any) -> None:
    held = file.create_dataset("rows", (300, 12), "f4", chunks=(100, 12))
    held[:100] = ROWS[:100]
    with pytest.raises(SourceFormatError, match="rows was not written to its end"):
        rs.measure(held)
    held[...] = ROWS
    assert rs.measure(held).rows_read == 300


def test_packed_numbers_and_virtual_data_sets_are_refused(file: Any) -> None:
    held = file.create_dataset("rows", data=ROWS)
    layout = h5py.VirtualLayout(ROWS.shape, "f4")
    layout[...] = h5py.VirtualSource("absent.h5", "rows", ROWS.shape)
    with pytest.raises(SourceFormatError, match="is a virtual data set"):
        rs.measure(file.create_virtual_dataset("v", layout))
    held.attrs["scale_factor"] = 0.5
    with pytest.raises(SourceFormatError, match="has the attribute scale_factor, which was not applied"):
        rs.measure(held)


def test_a_file_open_to_be_read_is_read_by_its_path(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened.create_dataset("g/rows", data=ROWS, chunks=(50, 12)).attrs["scale_factor"] = np.float32(0.5)
        opened.create_dataset("part", (300, 12), "f4", chunks=(100, 12))[:100] = ROWS[:100]
    with h5py.File(tmp_path / "a.h5") as opened:
        held = opened["g/rows"]
        assert open_source(held).reopen() == f"{tmp_path}/a.h5::g/rows"
        assert rs.measure(held).estimates == rs.measure(f"{tmp_path}/a.h5::g/rows").estimates
        assert rs.measure(opened["part"], missing="skip").rows_read == 100
        with pytest.raises(UsageError, match="key is for an object in memory"):
            rs.measure(held, key="a")
