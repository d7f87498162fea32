"""Rows in any format, in one file or in shards, give the bits of rows in memory, however they are read."""

from __future__ import annotations

import pytest

from benchmarks.harness.stored_formats import STORED_FORMATS
from tests.formats_table import WIDE, check, check_passes, known_formats, write_shards, write_whole


@WIDE
@pytest.mark.parametrize("name", known_formats())
def test_a_file_gives_the_bits_of_memory(name, tmp_path):
    stored = STORED_FORMATS[name]
    check(stored.address(write_whole(stored, tmp_path)), stored, "all", "labels")


@WIDE
@pytest.mark.parametrize("name", known_formats())
def test_eleven_uneven_shards_give_the_bits_of_memory(name, tmp_path):
    stored = STORED_FORMATS[name]
    write_shards(stored, tmp_path / "shards")
    source = stored.address(tmp_path / "shards" / f"*{stored.ending}")
    check(source, stored, "all", "sample", "rows:N")
    check_passes(source, stored, tmp_path)
