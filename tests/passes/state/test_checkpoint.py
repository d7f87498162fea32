"""A pass that was stopped, killed or outgrown goes on from its file, to the same bits; never over other rows."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import (
    CheckpointWarning,
    NonFiniteError,
    OutputError,
    SourceChangedError,
    StateError,
    ToleranceWarning,
    UsageError,
)
from rankme_stream.passes.state import checkpoint
from rankme_stream.passes.state.partial_result import PartialResult
from tests.command_line import refused
from tests.dumps import PASSES, rows_like, same_bits, store
from tests.interruptions import Stop, stopped

N_ROWS = 800_000


@pytest.fixture
def source(tmp_path) -> Path:
    return store(tmp_path / "a.zarr", rows_like(N_ROWS, 4))


@pytest.mark.parametrize("options", PASSES.values(), ids=PASSES)
def test_a_pass_that_is_stopped_again_and_again_ends_in_the_same_bits(source, tmp_path, options):
    wanted = rs.measure(source, **options)
    file = tmp_path / "kept"
    read = 0
    for n_rows in (1, 1, 100_000):
        stopped(source, file, n_rows, workers=2, **options)
        covered = sum(stop - start for start, stop in rs.load_state(file).covered)
        assert covered >= read
        read = covered
    assert 0 < read <= N_ROWS
    rows = []
    found = rs.measure(source, checkpoint=file, progress=rows.append, **options)
    assert (rows[-1].rows_before, rows[-1].rows_done) == (read, N_ROWS - read)
    assert same_bits(found, wanted)
    assert not rs.load_state(file).missing
    again = rs.measure(source, checkpoint=file, progress=rows.append, **options)
    assert (rows[-1].rows_before, rows[-1].rows_done) == (N_ROWS, 0)
    assert same_bits(again, wanted)


def test_a_file_is_written_while_the_pass_runs(source, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_PERIOD_S", 0.0)
    monkeypatch.setattr(checkpoint, "_PERIODS_A_WRITE", 0.0)
    ages, seen = [], set()

    def look(done):
        ages.append(done.checkpoint_age_s)
        if (tmp_path / "kept").exists():
            seen.add(sum(stop - start for start, stop in rs.load_state(tmp_path / "kept").covered))
        time.sleep(0.01)

    rs.measure(source, checkpoint=tmp_path / "kept", progress=look)
    assert seen - {N_ROWS}
    assert all(age >= 0.0 for age in ages)


def test_writing_is_as_rare_as_it_is_slow(source, tmp_path, monkeypatch):
    """The longer of 60 s and 50 times the last write: 2 % of the time at most."""
    state = rs.segment(source, part=(0, 1), state=tmp_path / "s")
    now = [0.0]
    writes = []

    def slow(path, state):
        writes.append(now[0])
        now[0] += cost

    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "save_state", slow)
    for cost, period in ((0.1, 60.0), (6.0, 300.0)):
        now[0], writes[:] = 0.0, []
        kept = checkpoint.Checkpoint(tmp_path / "s", state, state.merge_tree(), lambda: [])
        while now[0] < 1000.0:
            kept.tick()
            if kept._writer is not None:
                kept._writer.join()
            now[0] += 1.0
        gaps = np.diff([60.0, *[write for write in writes if write > 60.0]])
        assert writes[0] == 60.0
        assert gaps.min() >= period
        assert gaps.max() <= period + cost + 2.0


@pytest.mark.parametrize("layout", [{}, {"shards": (12_000, 4)}], ids=["chunks", "shards"])
@pytest.mark.parametrize("n_rows", [196_608, 200_000, 300_001])
def test_a_dump_that_has_grown_goes_on_with_the_new_rows(tmp_path, layout, n_rows):
    """Also where the last chunk, which was written again, or the last segment was not full."""
    rows = rows_like(N_ROWS, 4)
    source = store(tmp_path / "a.zarr", rows[:n_rows], **layout)
    rs.measure(source, checkpoint=tmp_path / "kept")
    array = zarr.open_array(source)
    array.resize(rows.shape)
    array[n_rows:] = rows[n_rows:]
    seen = []
    found = rs.measure(source, checkpoint=tmp_path / "kept", progress=seen.append)
    assert same_bits(found, rs.measure(source))
    unit = 12_000 if layout else 3000
    assert n_rows - seen[-1].rows_before <= 65_536 + unit


def test_more_rows_may_be_asked_for_and_not_fewer(source, tmp_path):
    rs.measure(source, checkpoint=tmp_path / "kept", rows=(1000, 200_000))
    wanted = rs.measure(source, rows=(1000, 300_000))
    assert same_bits(rs.measure(source, checkpoint=tmp_path / "kept", rows=(1000, 300_000)), wanted)
    with pytest.raises(UsageError, match="holds a pass over rows up to 300,000, and 250,000 are requested"):
        rs.measure(source, checkpoint=tmp_path / "kept", rows=(1000, 250_000))
    with pytest.raises(UsageError, match="row start 1000 there and 0 here"):
        rs.measure(source, checkpoint=tmp_path / "kept")


def test_rows_that_changed_are_refused_with_their_place(source, tmp_path):
    stopped(source, tmp_path / "kept", 1, rows=(0, 350_000), workers=1)
    before = (tmp_path / "kept").read_bytes()
    zarr.open_array(source)[5] = 7.0
    with pytest.raises(SourceChangedError, match=r"rows 0-65,535 of .*a\.zarr are not stored as they were when .*kept"):
        rs.measure(source, checkpoint=tmp_path / "kept", rows=(0, 350_000))
    assert (tmp_path / "kept").read_bytes() == before


def test_rows_that_were_not_read_yet_may_change(source, tmp_path):
    stopped(source, tmp_path / "kept", 1, workers=1)
    ((start, stop),) = rs.load_state(tmp_path / "kept").covered
    assert (start, stop) < (0, 200_000)
    zarr.open_array(source)[N_ROWS - 1] = 7.0
    assert same_bits(rs.measure(source, checkpoint=tmp_path / "kept"), rs.measure(source))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"normalize": True}, "normalize False there and True here"),
        ({"method": "tsqr"}, "holds a pass by gram in float64: give this method and precision"),
        ({"precision": "float32"}, "holds a pass by gram in float64"),
    ],
)
def test_other_options_are_refused_and_named(source, tmp_path, options, text):
    rs.measure(source, checkpoint=tmp_path / "kept")
    before = (tmp_path / "kept").read_bytes()
    with pytest.raises(UsageError, match=text):
        rs.measure(source, checkpoint=tmp_path / "kept", **options)
    assert (tmp_path / "kept").read_bytes() == before


def test_the_file_of_another_dump_is_refused(source, tmp_path):
    rs.measure(source, checkpoint=tmp_path / "kept")
    wide = store(tmp_path / "wide.zarr", rows_like(1000, 5))
    with pytest.raises(UsageError, match="n features 4 there and 5 here"):
        rs.measure(wide, checkpoint=tmp_path / "kept")
    other = store(tmp_path / "other.zarr", rows_like(N_ROWS, 4, seed=1))
    with pytest.raises(SourceChangedError, match=r"not stored as they were when read into .* from .*a\.zarr"):
        rs.measure(other, checkpoint=tmp_path / "kept")
    shutil.move(source, tmp_path / "moved.zarr")
    found = rs.measure(tmp_path / "moved.zarr", checkpoint=tmp_path / "kept")
    assert found.rows_read == N_ROWS
    (tmp_path / "note").write_text("my notes")
    with pytest.raises(StateError, match="no state file"):
        rs.measure(tmp_path / "moved.zarr", checkpoint=tmp_path / "note")
    assert (tmp_path / "note").read_text() == "my notes"


def test_a_rule_may_be_eased_after_it_refused(tmp_path):
    """A pass of hours that met a row that is not finite need not start again."""
    rows = rows_like(N_ROWS, 4)
    rows[300_000] = np.nan
    source = store(tmp_path / "a.zarr", rows)
    with pytest.raises(NonFiniteError) as caught:
        rs.measure(source, checkpoint=tmp_path / "kept", workers=1)
    assert "kept holds what was read" in caught.value.__notes__[0]
    assert rs.load_state(tmp_path / "kept").covered == [(0, 262_144)]
    found = rs.measure(source, checkpoint=tmp_path / "kept", nonfinite="skip")
    assert same_bits(found, rs.measure(source, nonfinite="skip"))
    with pytest.raises(UsageError, match='holds a pass with nonfinite="skip", which is not requested'):
        rs.measure(source, checkpoint=tmp_path / "kept", nonfinite="error")


def test_a_stopped_pass_by_qr_goes_on_as_well(tmp_path):
    """The Gram's interval is too wide, and the pass by QR is stopped."""
    rows = rows_like(N_ROWS, 4)
    rows[:, 2:] *= 1e-8
    source = store(tmp_path / "a.zarr", rows)
    wanted = rs.measure(source, tolerance=1e-10)
    assert [one["method"] for one in wanted.passes] == ["gram", "tsqr"]
    seen = []

    def stop(done):
        if seen and done.rows_done < seen[-1].rows_done:
            raise Stop
        seen.append(done)

    with pytest.raises(Stop):
        rs.measure(source, tolerance=1e-10, checkpoint=tmp_path / "kept", progress=stop)
    found = rs.measure(source, tolerance=1e-10, checkpoint=tmp_path / "kept")
    assert same_bits(found, wanted)
    assert found.passes == wanted.passes


def test_a_result_outlives_a_checkpoint_that_cannot_be_written(source, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()

    def remove(done):
        shutil.rmtree(folder, ignore_errors=True)

    with pytest.warns(CheckpointWarning, match="No such file or directory"):
        found = rs.measure(source, checkpoint=folder / "kept", progress=remove)
    assert same_bits(found, rs.measure(source))


def test_sources_that_cannot_be_read_again_take_no_checkpoint(source, tmp_path):
    for rows in (rows_like(10, 3), zarr.array(rows_like(10, 3))):
        with pytest.raises(UsageError, match="lives in this process"):
            rs.measure(rows, checkpoint=tmp_path / "kept")
    with pytest.raises(UsageError, match="stream of blocks is read once"):
        rs.measure(iter([rows_like(10, 3)]), checkpoint=tmp_path / "kept")
    with pytest.raises(UsageError, match="sampling keeps no checkpoint"):
        rs.measure(source, sample=True, checkpoint=tmp_path / "kept")


def test_a_plan_states_the_size_and_memory_of_the_checkpoint(source, tmp_path):
    without, planned = rs.plan(source), rs.plan(source, checkpoint=tmp_path / "kept")
    assert (without.checkpoint_bytes, "checkpoint" in without.memory) == (0, False)
    rs.measure(source, checkpoint=tmp_path / "kept")
    assert 0 < (tmp_path / "kept").stat().st_size <= planned.checkpoint_bytes
    assert planned.memory["checkpoint"] > 0


def test_rows_counted_twice_or_not_at_all_are_found(source, tmp_path):
    """The last line of defence: rows in the accumulators against rows of the plan."""
    rs.measure(source, checkpoint=tmp_path / "kept")
    state = rs.load_state(tmp_path / "kept")
    node = max(state.nodes)
    doubled: PartialResult = state.nodes[node].merge(state.nodes[node])
    state.nodes[node] = doubled
    rs.save_state(tmp_path / "kept", state)
    with pytest.raises(rs.RankMeError, match="rows counted and rows read do not agree"):
        rs.measure(source, checkpoint=tmp_path / "kept")


KILLED = """
import sys
import threading
import rankme_stream as rs
from rankme_stream.passes.state import checkpoint
checkpoint._PERIOD_S = checkpoint._PERIODS_A_WRITE = 0.0
measure = rs.measure  # imports what it needs, so that the process is killed in the pass
print("ready", flush=True)
measure(sys.argv[1], checkpoint=sys.argv[2])
"""


def test_a_pass_killed_at_random_instants_ends_in_the_same_bits(tmp_path):
    source = store(tmp_path / "a.zarr", rows_like(1_500_000, 4), chunk=30_000, compressors=None)
    wanted = rs.measure(source)
    generator, kills = random.Random(1), 0
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", KILLED, source, tmp_path / "kept"], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(generator.uniform(0.02, 0.3))
        process.kill()
        process.wait()
        process.stdout.close()
        kills += process.returncode == -signal.SIGKILL
        if (tmp_path / "kept").exists():
            rs.load_state(tmp_path / "kept")
    assert kills
    assert same_bits(rs.measure(source, checkpoint=tmp_path / "kept"), wanted)
    assert not [entry for entry in os.listdir(tmp_path) if entry.endswith(".new")]


def test_tolerance_may_change_between_runs(source, tmp_path):
    stopped(source, tmp_path / "kept", 1)
    with pytest.warns(ToleranceWarning):
        found = rs.measure(source, checkpoint=tmp_path / "kept", tolerance=1e-15, method="gram")
    assert not found.tolerance_met


def test_rows_that_change_after_they_were_read_are_found_and_the_others_kept(source, tmp_path):
    """By a job of an array as well: its file must not join the others as if nothing had been."""

    def change(done):
        if done.rows_done >= 100_000:
            zarr.open_array(source)[5] = float(np.random.default_rng(done.rows_done).standard_normal())

    with pytest.raises(SourceChangedError, match=r"rows 0-65,535 of .* changed while they were read.*keeps the other"):
        rs.segment(source, part=(0, 1), state=tmp_path / "kept", progress=change)
    held = rs.load_state(tmp_path / "kept")
    assert held.missing[0][0] == 0
    assert not held.is_checked
    with pytest.raises(StateError, match="in none of the files"):
        rs.measure_state(rs.merge_states([held]))
    state = rs.segment(source, part=(0, 1), state=tmp_path / "kept")
    assert same_bits(rs.measure_state(state), rs.measure(source))


@pytest.mark.parametrize("kind", ["zip", "file system"])
def test_dumps_in_stores_that_are_no_folder_are_distinguished(tmp_path, kind):
    """Two dumps of one layout, of which the second takes the place of the first: by size and time, not by name."""
    uris = []
    for seed, name in enumerate("ab"):
        folder = store(tmp_path / f"{name}.zarr", rows_like(N_ROWS, 4, seed=seed), chunk=40_000)
        uri = f"file://{folder}"
        if kind == "zip":
            shutil.make_archive(str(tmp_path / name), "zip", folder)
            uri = str(tmp_path / f"{name}.zip")
        uris.append(uri)
    wanted = rs.measure(uris[0])
    stopped(uris[0], tmp_path / "kept", 1, workers=1)
    with pytest.raises(SourceChangedError, match="not stored as they were"):
        rs.measure(uris[1], checkpoint=tmp_path / "kept")
    assert same_bits(rs.measure(uris[0], checkpoint=tmp_path / "kept"), wanted)


def test_a_file_that_cannot_be_written_is_refused_before_the_first_row_is_read(source, tmp_path):
    read = []
    for attempt in (rs.measure, rs.segment):
        kept = (
            {"checkpoint": tmp_path / "absent" / "s"} if attempt is rs.measure else {"state": tmp_path / "absent" / "s"}
        )
        options = kept if attempt is rs.measure else kept | {"part": (0, 1)}
        with pytest.raises(OutputError, match="there is no folder"):
            attempt(source, progress=read.append, **options)
    assert not read


def test_a_pass_goes_on_within_the_memory_it_began_with(tmp_path):
    """Memory for the file's content is planned once, and not counted as taken already; in processes of their own."""
    source = store(tmp_path / "a.zarr", rows_like(60_000, 1024), chunk=1000, compressors=None)
    rankme = [sys.executable, "-m", "rankme_stream"]
    options = ["--workers", "1", "--checkpoint", str(tmp_path / "kept")]
    plan = subprocess.run([*rankme, "plan", source, *options, "--json", "-"], capture_output=True, check=True)
    memory = f"{json.loads(plan.stdout)['predicted_peak_bytes'] // 2**20 + 10}MiB"
    for rows in ("0:50000", "0:60000", "0:60000"):
        command = [*rankme, "score", source, *options, "--memory", memory, "--rows", rows, "--quiet"]
        assert subprocess.run(command, capture_output=True, text=True).stderr == ""


def test_machines_of_all_runs_are_remembered(source, tmp_path):
    stopped(source, tmp_path / "kept", 1, workers=1)
    state = rs.load_state(tmp_path / "kept")
    (worker,) = state.workers
    rs.save_state(tmp_path / "kept", replace(state, workers=[dict(worker) | {"cpu": "another"}]))
    found = rs.measure(source, checkpoint=tmp_path / "kept")
    assert {one["cpu"] for one in found.provenance["workers"]} == {"another", worker["cpu"]}
    assert not found.provenance["bits_reproducible"]


def test_an_end_that_is_interrupted_is_kept_unchecked(source, tmp_path, monkeypatch):
    """While the chunks are looked at once more."""

    def fail(state, source):
        raise Stop

    monkeypatch.setattr("rankme_stream.measuring.pass_runner.drop_changed_rows", fail)
    with pytest.raises(Stop):
        rs.measure(source, checkpoint=tmp_path / "kept")
    monkeypatch.undo()
    held = rs.load_state(tmp_path / "kept")
    assert (held.missing, held.is_checked) == ([], False)
    seen = []
    assert same_bits(rs.measure(source, checkpoint=tmp_path / "kept", progress=seen.append), rs.measure(source))
    assert seen[-1].rows_done == 0


@pytest.mark.parametrize("separator", ["/", "."])
@pytest.mark.parametrize("asked_one_by_one", [1000, 3])
def test_chunks_of_a_file_system_are_found_listed_or_asked_for(tmp_path, monkeypatch, separator, asked_one_by_one):
    monkeypatch.setattr("rankme_stream.sources.zarr.auditing_store._STAT_ONE_BY_ONE", asked_one_by_one)
    keys = {"name": "default", "separator": separator}
    folder = store(tmp_path / "a.zarr", rows_like(2000, 4), chunk=100, chunk_key_encoding=keys)
    before = rs.open_source(f"file://{folder}").fingerprint(0, 2000)
    found = rs.measure(f"file://{folder}")
    assert (found.chunks_missing, found.rankme.value) == (0, rs.measure(folder).rankme.value)
    chunk = folder / f"c{separator}7{separator}0"
    chunk.write_bytes(chunk.read_bytes())
    assert rs.open_source(f"file://{folder}").fingerprint(0, 2000) != before
    chunk.unlink()
    with pytest.raises(rs.RankMeError, match=r"rows 700-799\) is missing, 1 in all"):
        rs.measure(f"file://{folder}")


RESIZES = {
    "within the last chunk": (201_000, 202_500),
    "to the end of the last chunk": (202_500, 204_000),
    "by whole chunks": (198_000, 240_000),
    "from the end of a segment": (196_608, 200_000),
    "to the end of a segment": (190_000, 196_608),
    "across segments": (120_000, 320_001),
    "from less than a chunk": (1000, 70_000),
    "shrunk": (300_000, 200_000),
}


def resized(kind: str, path: Path, rows: np.ndarray, n_rows: int) -> None:
    """Give a dump of the first rows another number of them, as a writer does."""
    if kind == "npy":
        np.save(path, rows[:n_rows])
        return
    array = zarr.open_array(path)
    before = array.shape[0]
    array.resize((n_rows, array.shape[1]))
    if n_rows > before:
        array[before:] = rows[before:n_rows]


@pytest.mark.parametrize("kind", ["npy", "v2", "v3", "shards", "narrow"])
@pytest.mark.parametrize(("before", "after"), RESIZES.values(), ids=RESIZES)
def test_a_pass_goes_on_over_a_dump_of_another_number_of_rows(tmp_path, kind, before, after):
    """Stopped or ended, over all rows or the first ones; a dump without rows that the pass is over is refused."""
    rows = rows_like(320_001, 4)
    layouts = {"v2": {"zarr_format": 2}, "shards": {"shards": (12_000, 4)}, "narrow": {"chunks": (3000, 3)}}
    path = tmp_path / ("a.npy" if kind == "npy" else "a.zarr")
    if kind == "npy":
        np.save(path, rows[:before])
    else:
        options = {"chunks": (3000, 4)} | layouts.get(kind, {})
        zarr.create_array(path, shape=(before, 4), dtype="f4", **options)[:] = rows[:before]
    first = (0, min(before, 100_000))
    rs.measure(path, checkpoint=tmp_path / "ended")
    rs.measure(path, checkpoint=tmp_path / "first", rows=first)
    stopped(path, tmp_path / "stopped", 1, workers=1)
    resized(kind, path, rows, after)
    assert same_bits(rs.measure(path, checkpoint=tmp_path / "first", rows=first), rs.measure(path, rows=first))
    wanted = rs.measure(path)
    for name in ("ended", "stopped"):
        if after < before:
            with pytest.raises(UsageError, match=f"holds a pass over rows up to {before:,}, and {after:,} are"):
                rs.measure(path, checkpoint=tmp_path / name)
        else:
            assert same_bits(rs.measure(path, checkpoint=tmp_path / name), wanted)


def test_passes_of_several_threads_and_processes_share_a_file(tmp_path, monkeypatch):
    """All write all the time; none is lost, none ends with an error, and nothing is left beside the file."""
    monkeypatch.setattr(checkpoint, "_PERIOD_S", 0.0)
    monkeypatch.setattr(checkpoint, "_PERIODS_A_WRITE", 0.0)
    source = store(tmp_path / "a.zarr", rows_like(400_000, 4), chunk=20_000)
    wanted, found = rs.measure(source), []

    def run():
        found.append(rs.measure(source, checkpoint=tmp_path / "kept", workers=1))

    for _ in range(3):
        (tmp_path / "kept").unlink(missing_ok=True)
        threads = [threading.Thread(target=run) for _ in range(3)]
        other = subprocess.Popen([sys.executable, "-c", KILLED, source, tmp_path / "kept"], stdout=subprocess.DEVNULL)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert other.wait() == 0
    assert len(found) == 9
    assert all(same_bits(one, wanted) for one in found)
    assert same_bits(rs.measure(source, checkpoint=tmp_path / "kept"), wanted)
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "kept"]


def test_two_parts_of_a_job_array_cannot_share_a_file(tmp_path):
    """Whichever begins first; the other is refused before it reads, also while the first has no rows yet."""
    source = store(tmp_path / "a.zarr", rows_like(300_000, 4))
    refusals = []

    def begin_other(done):
        with pytest.raises(
            UsageError, match=r"kept is for rows 0-131,071, and this part is rows 131,072-299,999: give"
        ):
            rs.segment(source, part=(1, 2), state=tmp_path / "kept")
        refusals.append(done)

    first = rs.segment(source, part=(0, 2), state=tmp_path / "kept", progress=begin_other)
    assert refusals
    with pytest.raises(UsageError, match="give each part a file of its own"):
        rs.segment(source, part=(1, 2), state=tmp_path / "kept")
    assert rs.load_state(tmp_path / "kept").results_digest() == first.results_digest()
    results = []

    def run(number):
        try:
            results.append(rs.segment(source, part=(number, 2), state=tmp_path / "race").part)
        except UsageError as error:
            results.append(type(error))

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(UsageError) == 1
    assert rs.load_state(tmp_path / "race").part in results


@pytest.mark.parametrize("place", [".", "states", "kept.state"])
def test_nothing_is_written_into_a_store(tmp_path, place):
    source = store(tmp_path / "a.zarr", rows_like(1000, 4))
    before = sorted(source.rglob("*"))
    with pytest.raises(UsageError, match=r"a\.zarr is a zarr store, and .* would be written into it"):
        rs.measure(source, checkpoint=source / place)
    with pytest.raises(UsageError, match="is a zarr store"):
        rs.segment(source, part=(0, 1), state=source / place)
    ((_, error),) = rs.measure_each([str(source)], checkpoint=source / place)
    assert isinstance(error, UsageError)
    refused(2, "is a zarr store", "score", source, "--checkpoint", source / place)
    assert sorted(source.rglob("*")) == before


def test_a_file_without_a_name_is_a_usage_error(source, tmp_path):
    refused(2, "is called '', which is no name", "score", source, "--checkpoint", "")
    refused(2, "is '' and must name a file", "segment", source, "--part", "0/1", "--state", "")
    with pytest.raises(UsageError, match="is called '', which is no name"):
        rs.measure(source, checkpoint="")
