"""Rows in any format, in one file or in shards, give the bits of rows in memory, however they are read."""

from __future__ import annotations

import pytest

from benchmarks.harness.stored_formats import STORED_FORMATS
from rankme_stream.sources.formats import FORMATS, format_of
from tests.formats_table import WIDE, all_formats, check, check_passes, write_shards, write_whole

# The other formats are read by the same code; the table of `make test-writers` has passes of all.
ONE_A_READER = {"npy", "npz, deflated", "fvecs", "parquet", "arrow file", "arrow stream", "hdf5, rows"}


def test_every_format_that_is_read_is_in_the_table():
    found = {format_of(f"x{one.ending}") for one in STORED_FORMATS.values()}
    assert found == {*FORMATS}


@WIDE
@pytest.mark.parametrize("name", all_formats())
def test_a_file_gives_the_bits_of_memory(name, tmp_path):
    stored = STORED_FORMATS[name]
    check(stored.address(write_whole(stored, tmp_path)), stored, "all", "labels")


@WIDE
@pytest.mark.parametrize("name", all_formats())
def test_eleven_uneven_shards_give_the_bits_of_memory(name, tmp_path):
    stored = STORED_FORMATS[name]
    write_shards(stored, tmp_path / "shards")
    source = stored.address(tmp_path / "shards" / f"*{stored.ending}")
    check(source, stored, "all", "sample", "rows:N")
    if name in ONE_A_READER:
        check_passes(source, stored, tmp_path)
