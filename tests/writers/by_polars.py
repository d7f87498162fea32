"""Frames and series of polars, held by Python: the bits of the array in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import rankme_stream as rs
from rankme_stream.errors import NonFiniteError, SourceFormatError
from tests.writers.frame import check, rows_of

ROWS = rows_of()
LISTS = pl.Series("rows", ROWS.tolist(), dtype=pl.List(pl.Float32))


def test_frames_and_series_are_rows() -> None:
    check(pl.DataFrame(ROWS), ROWS)
    check(pl.Series("rows", ROWS), ROWS)  # of arrays
    check(LISTS, ROWS)
    check(pl.DataFrame({"id": range(len(ROWS)), "rows": LISTS, "more": LISTS}), ROWS, key="rows")
    check(pl.concat([LISTS[:70], LISTS[70:]], rechunk=False), ROWS)


def test_slices_of_a_frame_are_blocks() -> None:
    frame = pl.DataFrame({"id": range(len(ROWS)), "rows": LISTS})
    assert rs.measure(frame.iter_slices(99), key="rows").estimates == rs.measure(ROWS).estimates


def test_nulls_are_no_data() -> None:
    rows = LISTS.to_list()
    rows[5] = None
    with pytest.raises(NonFiniteError, match="row 5 is null or not finite"):
        rs.measure(pl.Series("rows", rows, dtype=pl.List(pl.Float32)))


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_files_of_arrow_are_rows(tmp_path: Path, compression: Any) -> None:
    frame = pl.DataFrame({"kind": ["a", "b", "c"] * 200, "rows": LISTS, "more": pl.Series(ROWS)})
    frame.with_columns(pl.col("kind").cast(pl.Categorical)).write_ipc(tmp_path / "x.arrow", compression=compression)
    for name in ("rows", "more"):
        check(f"{tmp_path}/x.arrow::{name}", ROWS)
    groups = rs.measure(ROWS, groups=f"{tmp_path}/x.arrow::kind").groups
    assert list(groups) == ["a", "b", "c"]


def test_types_that_arrow_lacks_are_refused() -> None:
    with pytest.raises(SourceFormatError, match="<polars> has a column that pyarrow does not read"):
        rs.open_source(pl.DataFrame({"a": [1], "b": [2]}).cast(pl.Int128))
