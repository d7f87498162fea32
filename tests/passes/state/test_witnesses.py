"""A file is gone on from, and joined, only over rows of the same values: sizes and times do not tell dumps apart."""

from __future__ import annotations

import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import rankme_stream as rs
from rankme_stream.errors import SourceChangedError, StateError
from rankme_stream.passes.state.witnesses import Witnesses, changed_row, witness_rows
from rankme_stream.sources import ArraySource, ZarrSource
from tests.dumps import rows_like, same_bits, store
from tests.interruptions import stopped
from tests.sources.test_content import Counting

DATA = Path(__file__).parents[2] / "data"
N_ROWS = 150_000
LAYOUTS = {"v2": {"zarr_format": 2}, "v3": {}, "shards": {"shards": (12_000, 4)}}


def written(kind: str, folder: Path, rows: np.ndarray) -> str:
    """Write rows with equal sizes and times, as tar, rsync and images of containers leave them; return the source."""
    folder.mkdir(exist_ok=True)
    if kind == "npy":
        np.save(folder / "a.npy", rows)
        os.utime(folder / "a.npy", (0, 0))
        return str(folder / "a.npy")
    shutil.rmtree(folder / "a.zarr", ignore_errors=True)
    path = store(folder / "a.zarr", rows, compressors=None, **LAYOUTS.get(kind, {}))
    for file in [path, *path.rglob("*")]:
        os.utime(file, (0, 0))
    if kind != "zip":
        return f"file://{path}" if kind == "file system" else str(path)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for file in sorted(one for one in path.rglob("*") if one.is_file()):
            archive.writestr(zipfile.ZipInfo(str(file.relative_to(path))), file.read_bytes())
    os.utime(folder / "a.zip", (0, 0))
    return str(folder / "a.zip")


@pytest.mark.parametrize("kind", ["npy", *LAYOUTS, "zip", "file system"])
def test_another_dump_of_equal_sizes_and_times_is_told_apart(tmp_path, kind):
    """Whether the pass was stopped or ended, in its place or beside it, and as a part of a job array; a copy is not."""
    rows, others = rows_like(N_ROWS, 4), rows_like(N_ROWS, 4, seed=1)
    source, copy, other = (
        written(kind, tmp_path / name, values) for name, values in (("a", rows), ("c", rows), ("b", others))
    )
    first, second = (rs.segment(one, part=(n, 2), state=tmp_path / f"{n}") for n, one in enumerate((source, other)))
    with pytest.raises(StateError, match="is no part of the pass of the files before it: rows of"):
        rs.merge_states([first, second])
    stopped(source, tmp_path / "stopped", 1, workers=1)
    wanted = rs.measure(source, checkpoint=tmp_path / "ended")
    for file in ("stopped", "ended"):
        before = (tmp_path / file).read_bytes()
        with pytest.raises(SourceChangedError, match=r"row [\d,]+ of .* has other values than when it was read into"):
            rs.measure(other, checkpoint=tmp_path / file)
        assert (tmp_path / file).read_bytes() == before
        assert same_bits(rs.measure(copy, checkpoint=tmp_path / file), wanted)
    written(kind, tmp_path / "a", others)
    with pytest.raises(SourceChangedError, match="has other values"):
        rs.measure(source, checkpoint=tmp_path / "ended")


def test_each_eighth_of_a_small_dump_is_seen_to_change(tmp_path):
    """One segment notes eight rows of its own."""
    rows = rows_like(3000, 4)
    source = written("npy", tmp_path / "a", rows)
    rs.measure(source, checkpoint=tmp_path / "kept")
    noted = [*next(iter(rs.load_state(tmp_path / "kept").nodes.values())).witnesses.digests]
    assert noted == witness_rows(0, 3000)
    assert len(noted) == 8
    for row in noted:
        changed = rows.copy()
        changed[row] += 1.0
        written("npy", tmp_path / "a", changed)
        with pytest.raises(SourceChangedError, match=f"row {row:,} of"):
            rs.measure(source, checkpoint=tmp_path / "kept")


def test_rows_away_from_those_noted_may_change_unseen(tmp_path):
    """As the page says: where size and time are kept, only the rows noted are looked at."""
    rows = rows_like(3000, 4)
    source = written("npy", tmp_path / "a", rows)
    before = rs.measure(source, checkpoint=tmp_path / "kept")
    rows[(set(range(3000)) - set(witness_rows(0, 3000))).pop()] += 1.0
    written("npy", tmp_path / "a", rows)
    assert same_bits(rs.measure(source, checkpoint=tmp_path / "kept"), before)


def test_the_rows_kept_do_not_depend_on_the_order_of_merges():
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((4000, 2))
    parts = [Witnesses.of(witness_rows(start, start + 100), 0, rows) for start in range(0, 4000, 100)]
    found = set()
    for _ in range(5):
        whole = Witnesses()
        for number in generator.permutation(len(parts)):
            whole = whole.merge(parts[number])
        found.add(tuple(whole.digests.items()))
    assert len(found) == 1
    assert len(whole.digests) == 16
    assert changed_row([whole], ArraySource(rows)) is None
    rows[max(whole.digests)] = 0.0
    assert changed_row([whole], ArraySource(rows)) == max(whole.digests)
    assert changed_row([], ArraySource(rows)) is None


def test_a_resumed_pass_reads_few_rows_and_no_chunk_twice(tmp_path):
    path = store(tmp_path / "a.zarr", rows_like(400_000, 4), chunk=1000)
    rs.measure(path, checkpoint=tmp_path / "kept")
    noted = [partial.witnesses for partial in rs.load_state(tmp_path / "kept").nodes.values()]
    source = Counting(path)
    assert changed_row(noted, source) is None
    chunks = [start // 1000 for start, _ in source.asked]
    assert len(chunks) == len(set(chunks)) <= 16 * len(noted) <= 64


def test_an_earlier_pass_counts_as_rows_that_were_read(tmp_path):
    """A second pass that has read nothing yet is of the dump that the first one read."""
    rows = rows_like(3000, 4)
    rows[:, 2:] *= 1e-8
    source = written("npy", tmp_path / "a", rows)
    rs.measure(source, tolerance=1e-10, checkpoint=tmp_path / "kept")
    state = rs.load_state(tmp_path / "kept")
    assert [one["method"] for one in state.passes] == ["gram"]
    rs.save_state(tmp_path / "kept", replace(state, nodes={}))
    written("npy", tmp_path / "a", rows_like(3000, 4, seed=1))
    with pytest.raises(
        SourceChangedError, match=r"rows 0-2,999 of .* have other values than when an earlier pass read"
    ):
        rs.measure(source, tolerance=1e-10, checkpoint=tmp_path / "kept")


def test_a_file_that_noted_no_rows_is_shown_and_joined_and_not_gone_on_from(tmp_path):
    """Files of version 1 noted none, and may be of another dump than the one given."""
    source = store(tmp_path / "golden.zarr", rows_like(300, 5, seed=1))
    shutil.copy(DATA / "state-v1-gram.rankme", tmp_path / "kept")
    state = rs.load_state(tmp_path / "kept")
    assert same_bits(rs.measure_state(rs.merge_states([state, state])), rs.measure_state(state))
    now = rs.segment(source, part=(0, 1), state=tmp_path / "now")
    with pytest.raises(StateError, match="is no part of the pass"):
        rs.merge_states([state, now])
    digest = [(one.start, one.stop, one.fingerprint) for one in now.stretches]
    stretches = [replace(one, fingerprint=mark) for one, (_, _, mark) in zip(state.stretches, digest, strict=True)]
    rs.save_state(tmp_path / "kept", replace(state, stretches=stretches))
    with pytest.raises(StateError, match="was made by an older version, which noted no values of the rows"):
        rs.measure(source, checkpoint=tmp_path / "kept")


class Unmarked(ZarrSource):
    """Rows of a store without times, such as one in memory, that another process could open as well."""

    def __init__(self, opened: zarr.Array) -> None:
        super().__init__(opened)
        self._opened = opened

    def reopen(self):
        return "somewhere"


def test_a_store_without_times_is_told_apart_by_its_values(tmp_path):
    arrays = []
    for seed in (0, 1, 0):
        array = zarr.create_array(MemoryStore(), shape=(5000, 4), chunks=(500, 4), dtype="f4")
        array[:] = rows_like(5000, 4, seed=seed)
        arrays.append(array)
    prints = [ZarrSource(array).fingerprint(0, 5000) for array in arrays]
    assert prints[0] != prints[1]
    assert prints[0] == prints[2]
    wanted = rs.measure(Unmarked(arrays[0]), checkpoint=tmp_path / "kept")
    with pytest.raises(SourceChangedError, match="are not stored as they were"):
        rs.measure(Unmarked(arrays[1]), checkpoint=tmp_path / "kept")
    assert same_bits(rs.measure(Unmarked(arrays[2]), checkpoint=tmp_path / "kept"), wanted)


def test_rows_of_a_store_without_times_that_change_while_they_are_read_are_found():
    array = zarr.create_array(MemoryStore(), shape=(5000, 4), chunks=(500, 4), dtype="f4")
    array[:] = rows_like(5000, 4)

    def change(done):
        if done.rows_done:
            array[:] = 1.0

    with pytest.raises(SourceChangedError, match="changed while it was read"):
        rs.measure(array, progress=change)


def test_an_array_in_memory_is_known_by_its_values():
    rows = rows_like(5000, 4)
    first = rs.measure(rows).source["fingerprint"]
    assert rs.measure(rows.copy()).source["fingerprint"] == first
    assert rs.measure(rows + 1).source["fingerprint"] != first
