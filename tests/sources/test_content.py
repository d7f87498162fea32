"""The hash of a few rows is that of their values, wherever they are stored."""

from __future__ import annotations

import os
import shutil

import array_api_strict
import numpy as np
import pytest
import zarr

from rankme_stream.sources import ArraySource, NpySource, Source, ZarrSource, content_digest
from tests.dumps import rows_like, store

ROWS = rows_like(1000, 6)


class Counting(ZarrSource):
    """Rows that note which of them are read."""

    def __init__(self, source: object) -> None:
        super().__init__(source)
        self.asked: list[tuple[int, int]] = []

    def read(self, start, stop, out=None):
        self.asked.append((start, stop))
        return super().read(start, stop, out)


def sources(folder) -> list[Source]:
    np.save(folder / "rows.npy", ROWS)
    np.save(folder / "columns.npy", np.asfortranarray(ROWS))
    np.save(folder / "swapped.npy", ROWS.astype(">f4"))
    return [
        ArraySource(ROWS),
        ArraySource(ROWS.astype(">f4")),
        ArraySource(array_api_strict.asarray(ROWS)),
        NpySource(folder / "rows.npy"),
        NpySource(folder / "columns.npy"),
        NpySource(folder / "swapped.npy"),
        ZarrSource(store(folder / "small.zarr", ROWS, chunk=10)),
        ZarrSource(store(folder / "large.zarr", ROWS, chunk=1000)),
        ZarrSource(store(folder / "shards.zarr", ROWS, chunk=10, shards=(100, 6))),
    ]


@pytest.mark.parametrize("span", [(0, 1000), (17, 18), (990, 1000), (300, 777)])
def test_layout_and_place_do_not_matter(tmp_path, span):
    assert len({content_digest(source, *span) for source in sources(tmp_path)}) == 1


def test_a_copy_has_the_same_hash_at_another_time_and_path(tmp_path):
    path = store(tmp_path / "a.zarr", ROWS, chunk=10)
    shutil.copytree(path, tmp_path / "b.zarr")
    for file in (tmp_path / "b.zarr").rglob("*"):
        os.utime(file, (1, 1))
    assert content_digest(ZarrSource(path), 0, 1000) == content_digest(ZarrSource(tmp_path / "b.zarr"), 0, 1000)


@pytest.mark.parametrize("row", [0, 999])
def test_the_first_row_and_the_last_count(row):
    changed = ROWS.copy()
    changed[row, 3] += 1e-3
    assert content_digest(ArraySource(changed), 0, 1000) != content_digest(ArraySource(ROWS), 0, 1000)


def test_a_change_of_a_tenth_of_the_rows_is_seen_about_every_second_time():
    seen = 0
    for start in range(0, 20_000, 1000):
        rows = np.zeros((start + 1000, 1), np.float32)
        changed = rows.copy()
        changed[start + 450 : start + 550] = 1.0
        seen += content_digest(ArraySource(changed), start, start + 1000) != content_digest(
            ArraySource(rows), start, start + 1000
        )
    assert 2 <= seen < 20  # 47 % of them: the rows are drawn anew for each range, and the rest goes unseen


def test_type_and_width_count():
    narrow = np.zeros((1000, 6), np.float32)
    others = [np.zeros((1000, 12), np.float16), np.zeros((1000, 7), np.float32), np.zeros((1000, 6), np.int32)]
    assert len({content_digest(ArraySource(rows), 0, 1000) for rows in [narrow, *others]}) == 4


@pytest.mark.parametrize(("chunk", "most"), [(10, 8), (500, 2), (1000, 1)])
def test_no_chunk_is_read_twice(tmp_path, chunk, most):
    source = Counting(store(tmp_path / "a.zarr", ROWS, chunk=chunk))
    content_digest(source, 0, 1000)
    assert len(source.asked) <= most
    assert all((stop - 1) // chunk == start // chunk for start, stop in source.asked)


def test_two_readers_of_one_range_are_asked_for_the_same_rows(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(1000, 6), chunks=(10, 6), dtype="f4")
    array[:] = ROWS
    asked = []
    for _ in range(2):
        source = Counting(tmp_path / "a.zarr")
        content_digest(source, 100, 900)
        asked.append(source.asked)
    assert asked[0] == asked[1]
    assert asked[0][0][0] == 100
    assert asked[0][-1][1] == 900
