"""The table of formats: what is missing is named with the command that installs it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import UsageError
from rankme_stream.sources.formats import FORMATS

LIBRARIES = {"parquet": "pyarrow", "hdf5": "h5py"}  # by the extra that installs them
WITHOUT = """
import sys
for name in sys.argv[1].split():
    sys.modules[name] = None  # as where it is not installed
import rankme_stream as rs
for file in sys.argv[2:]:
    open(file, "wb").close()
    try:
        rs.open_source(file)
    except rs.RankMeError as error:
        print(type(error).__name__, error)
"""


def test_a_reader_that_is_not_installed_is_named_with_its_command(tmp_path):
    wanted = [one for one in FORMATS if one.extra is not None]
    files = [f"x{one.endings[0]}" for one in wanted]
    names = " ".join(LIBRARIES[one.extra] for one in wanted)
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT, names, *files], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines() == [
        f"SourceFormatError {file} is {one.name}, and its reader is not installed: "
        f"pip install 'rankme-stream[{one.extra}]'"
        for one, file in zip(wanted, files, strict=True)
    ]


@pytest.mark.parametrize("option", ["width", "offset"])
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.fbin", "x.zarr", "named_badly.bin"])
def test_width_and_offset_are_not_passed_over_where_a_file_says_them(tmp_path, name, option):
    path, rows = tmp_path / name, np.ones((4, 3), np.float32)
    np.save(tmp_path / "x.npy", rows)
    np.savez(tmp_path / "x.npz", rows)
    (tmp_path / "named_badly.bin").write_bytes((tmp_path / "x.npy").read_bytes())
    (tmp_path / "x.fbin").write_bytes(np.array([4, 3], "<u4").tobytes() + rows.tobytes())
    zarr.create_array(tmp_path / "x.zarr", data=rows)
    assert rs.open_source(path).shape == (4, 3)
    with pytest.raises(UsageError, match=rf"{option} is for files of numbers without a header.* is none of them"):
        rs.open_source(path, **{option: 3})
