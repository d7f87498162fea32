"""State files come back bit by bit or not at all, and parts of a pass join to the same bits as one pass."""

from __future__ import annotations

import random
import resource
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import OutputError, StateError, ToleranceWarning, UsageError
from rankme_stream.passes.state import state_file
from tests.dumps import PASSES, rows_like, same_bits, store

DATA = Path(__file__).parents[2] / "data"


def small_state(folder: Path, **options: object) -> Path:
    rs.segment(store(folder / "small.zarr", rows_like(50, 3)), part=(0, 1), state=folder / "small.state", **options)
    return folder / "small.state"


@pytest.mark.parametrize("options", PASSES.values(), ids=PASSES)
def test_a_state_comes_back_bit_by_bit(tmp_path, options):
    source = store(tmp_path / "a.zarr", rows_like(200_000, 6))
    held = rs.segment(source, part=(0, 1), state=tmp_path / "a.state", **options)
    loaded = rs.load_state(tmp_path / "a.state")
    assert loaded.results_digest() == held.results_digest()
    assert (loaded.plan, loaded.source, loaded.stretches) == (held.plan, held.source, held.stretches)
    assert same_bits(rs.measure_state(loaded), rs.measure(source, **options))
    rs.save_state(tmp_path / "b.state", loaded)
    assert (tmp_path / "b.state").read_bytes() == (tmp_path / "a.state").read_bytes()


def test_every_flipped_bit_and_every_cut_is_found(tmp_path):
    path = small_state(tmp_path)
    whole = path.read_bytes()
    assert len(whole) < 5000
    generator = random.Random(0)
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << generator.randrange(8)
        path.write_bytes(broken)
        with pytest.raises(StateError, match=r"damaged|no state file|of version"):
            rs.load_state(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(StateError, match=r"damaged|no state file"):
            rs.load_state(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(StateError, match="damaged"):
        rs.load_state(path)


def test_a_file_that_is_no_state_of_this_version_is_refused(tmp_path):
    path = small_state(tmp_path)
    newer = bytearray(path.read_bytes())
    newer[13:17] = struct.pack("<I", state_file.VERSION + 1)
    path.write_bytes(newer)
    with pytest.raises(StateError, match=r"of version 3, newer than 2: upgrade"):
        rs.load_state(path)
    path.write_bytes(b"PK\3\4 something else")
    with pytest.raises(StateError, match="no state file of rankme"):
        rs.load_state(path)
    with pytest.raises(StateError, match="there is no"):
        rs.load_state(tmp_path / "absent")
    with pytest.raises(StateError, match="cannot be read"):
        rs.load_state(tmp_path)


def test_a_write_that_fails_keeps_what_was_there(tmp_path):
    path = small_state(tmp_path)
    before = path.read_bytes()
    code = (
        "import resource, signal, sys, rankme_stream as rs\n"
        "state = rs.load_state(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"  # a full disk, for files of this process
        "try: rs.save_state(sys.argv[1], state)\n"
        "except rs.RankMeError as error: print(type(error).__name__, error)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("OutputError")
    assert "cannot be written: File too large" in shown
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["small.state", "small.zarr"]
    with pytest.raises(OutputError, match="No such file or directory"):
        rs.save_state(tmp_path / "absent" / "x", rs.load_state(path))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    path = small_state(tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / f".small.state.{state_file.HOST_DIGEST}-{ended.pid}.new"
    others = [
        tmp_path / f".small.state.{state_file.HOST_DIGEST}-1.new",
        tmp_path / f".small.state.0-{ended.pid}.new",
        tmp_path / ".small.state.new",
    ]
    for each in (left, *others):
        each.write_bytes(b"half")
    state_file.remove_leftovers(path)
    assert not left.exists()
    assert all(each.exists() for each in (path, *others))


@pytest.mark.parametrize("name", ["gram", "gram-float32", "tsqr", "unit-rows"])
def test_files_of_version_1_stay_readable(name):
    """Written by tests/data/make_states.py; never to be written again."""
    state = rs.load_state(DATA / f"state-v1-{name}.rankme")
    rows = rows_like(300, 5, seed=1).astype(np.float64)
    wanted = rs.metrics.rankme(np.linalg.svd(rows, compute_uv=False))
    found = rs.measure_state(state)
    assert found.rankme.lower <= wanted <= found.rankme.upper
    assert found.rows_read == 300
    if name == "unit-rows":
        unit = np.linalg.svd(rows / np.linalg.norm(rows, axis=1)[:, None], compute_uv=False)
        assert found.normalized["rankme"].lower <= rs.metrics.rankme(unit) <= found.normalized["rankme"].upper


@pytest.mark.parametrize("options", PASSES.values(), ids=PASSES)
def test_parts_in_any_order_join_to_the_bits_of_one_pass(tmp_path, options):
    source = store(tmp_path / "a.zarr", rows_like(700_000, 4), chunk=70_001)
    wanted = rs.measure(source, dims=(2,), **options)
    order = list(range(7))
    random.Random(3).shuffle(order)
    for number in order:
        rs.segment(source, part=(number, 7), state=tmp_path / f"{number}", workers=1 + number % 2, **options)
    states = [rs.load_state(tmp_path / f"{number}") for number in order]
    pairs = [rs.merge_states(states[:3]), rs.merge_states(states[3:])]
    for whole in (rs.merge_states(states), rs.merge_states(pairs), rs.merge_states([*pairs, pairs[1]])):
        found = rs.measure_state(whole, dims=(2,))
        assert same_bits(found, wanted)
        assert found.dims == wanted.dims
        assert found.provenance["bits_reproducible"]


@pytest.fixture
def parts(tmp_path) -> list[rs.State]:
    source = store(tmp_path / "a.zarr", rows_like(300_000, 4), chunk=20_000)
    return [rs.segment(source, part=(number, 3), state=tmp_path / f"{number}") for number in range(3)]


def test_rows_missing_from_a_merge_are_named(parts):
    with pytest.raises(StateError, match=r"rows 65,536-196,607 of .*a\.zarr are in none of the files"):
        rs.measure_state(rs.merge_states([parts[2], parts[0]]))


def test_a_part_that_comes_twice_counts_once_and_other_overlaps_are_refused(parts, tmp_path):
    once = rs.measure_state(rs.merge_states(parts))
    assert same_bits(rs.measure_state(rs.merge_states([*parts, parts[1]])), once)
    half = rs.segment(tmp_path / "a.zarr", part=(0, 2), state=tmp_path / "half")
    with pytest.raises(StateError, match=r"half holds rows 0-131,071, some of which .* leave one of them out"):
        rs.merge_states([*parts, half], ["0", "1", "2", "half"])
    node = next(iter(parts[1].nodes))
    other = replace(parts[1], nodes={node: parts[0].nodes[next(iter(parts[0].nodes))]})
    with pytest.raises(StateError, match="alone or merged with others"):
        rs.merge_states([*parts, other])


def test_parts_of_different_passes_do_not_join(parts, tmp_path):
    source = tmp_path / "a.zarr"
    qr = rs.segment(source, part=(1, 3), state=tmp_path / "qr", method="tsqr")
    with pytest.raises(
        StateError, match="state 1 is no part of the pass of the files before it: method tsqr there and gram"
    ):
        rs.merge_states([parts[0], qr])
    some = rs.segment(source, part=(1, 3), state=tmp_path / "some", rows=(0, 250_000))
    with pytest.raises(StateError, match="is of rows up to 250,000, unlike"):
        rs.merge_states([parts[0], some])
    zarr.open_array(source)[70_000] = 5.0
    again = rs.segment(source, part=(1, 3), state=tmp_path / "again")
    assert same_bits(rs.measure_state(rs.merge_states([parts[0], again, parts[2]])), rs.measure(source))
    with pytest.raises(StateError, match=r"rows 65,536-131,071 as they were stored at another time"):
        rs.merge_states([parts[1], again])


def test_machines_that_differ_are_reported(parts):
    other = replace(parts[1], workers=[dict(parts[1].workers[0]) | {"cpu": "another"}])
    found = rs.measure_state(rs.merge_states([parts[0], other, parts[2]]))
    assert not found.provenance["bits_reproducible"]
    assert [worker["cpu"] for worker in found.provenance["workers"]].count("another") == 1


def test_more_parts_than_segments_are_empty(tmp_path):
    source = store(tmp_path / "a.zarr", rows_like(5000, 4))
    states = [rs.segment(source, part=(number, 5), state=tmp_path / f"{number}") for number in range(5)]
    assert sorted(bool(state.nodes) for state in states) == [False] * 4 + [True]
    assert same_bits(rs.measure_state(rs.merge_states(states)), rs.measure(source))


def test_a_merge_that_is_too_wide_says_how_to_read_better(tmp_path):
    source = store(tmp_path / "a.zarr", rows_like(5000, 4))
    state = rs.segment(source, part=(0, 1), state=tmp_path / "s")
    with pytest.warns(ToleranceWarning, match=r"rankme segment .*"):
        assert not rs.measure_state(state, tolerance=1e-14).tolerance_met


@pytest.mark.parametrize("part", [(3, 3), (-1, 3), (0, 0)])
def test_parts_that_do_not_exist_are_refused(tmp_path, part):
    source = store(tmp_path / "a.zarr", rows_like(50, 4))
    with pytest.raises(UsageError, match=f"there is no part {part[0]}/{part[1]}: give (0/3 to 2/3|I/N with)"):
        rs.segment(source, part=part, state=tmp_path / "s")


def test_parts_of_two_dumps_do_not_join_though_they_share_no_row(tmp_path):
    """Of the same shape and layout: each part's rows are as they were, and still not of one pass."""
    sources = [store(tmp_path / f"{name}.zarr", rows_like(131_072, 4, seed=seed)) for seed, name in enumerate("ab")]
    parts = [
        rs.segment(source, part=(number, 2), state=tmp_path / f"{number}") for number, source in enumerate(sources)
    ]
    with pytest.raises(StateError, match=r"rows of .*b\.zarr there and of .*a\.zarr here"):
        rs.merge_states(parts)


def test_factors_are_merged_by_one_thread_of_lapack(tmp_path):
    """Wide enough for BLAS to share out the work, whose bits would follow the number of its threads."""
    source = store(tmp_path / "a.zarr", rows_like(70_000, 400), chunk=10_000)
    wanted = rs.measure(source, method="tsqr", workers=2)
    states = [rs.segment(source, part=(number, 3), state=tmp_path / f"{number}", method="tsqr") for number in range(3)]
    assert same_bits(rs.measure_state(rs.merge_states(states)), wanted)


def test_a_file_is_read_as_it_was_checked_though_another_takes_its_place(tmp_path):
    path = small_state(tmp_path)
    wanted = rs.load_state(path)
    wide = store(tmp_path / "wide.zarr", rows_like(500, 40))
    with state_file.StateFile(path) as held:
        rs.segment(wide, part=(0, 1), state=tmp_path / "wide.state")
        (tmp_path / "wide.state").replace(path)
        ((_, arrays),) = held.records()
    (partial,) = wanted.nodes.values()
    assert {name: array.tobytes() for name, array in arrays.items()} == {
        name: np.asarray(array).tobytes() for name, array in partial.to_record()[1].items()
    }


def test_a_pass_whose_rows_were_not_seen_to_stay_is_not_scored(tmp_path):
    path = small_state(tmp_path)
    rs.save_state(path, replace(rs.load_state(path), is_checked=False))
    with pytest.raises(StateError, match="ended before its rows were seen to be unchanged"):
        rs.measure_state(rs.load_state(path))


def test_a_whole_of_parts_is_a_checkpoint_too(tmp_path):
    """Of a dump that has grown since, with a last chunk that was written again."""
    rows = rows_like(300_000, 4)
    source = store(tmp_path / "a.zarr", rows[:200_500], chunk=20_000)
    states = [rs.segment(source, part=(number, 3), state=tmp_path / f"{number}") for number in range(3)]
    rs.save_state(tmp_path / "whole", rs.merge_states(states))
    array = zarr.open_array(source)
    array.resize(rows.shape)
    array[200_500:] = rows[200_500:]
    seen = []
    found = rs.measure(source, checkpoint=tmp_path / "whole", progress=seen.append)
    assert seen[-1].rows_before == 196_608
    assert same_bits(found, rs.measure(source))


def test_an_empty_state_or_an_unchecked_copy_does_not_hinder_a_merge(parts):
    begun = replace(parts[1], nodes={}, is_checked=False)
    unchecked = replace(parts[0], is_checked=False)
    wanted = rs.measure_state(rs.merge_states(parts))
    for states in ([begun, *parts], [unchecked, *parts], [*parts, unchecked]):
        assert same_bits(rs.measure_state(rs.merge_states(states)), wanted)
    with pytest.raises(StateError, match="seen to be unchanged"):
        rs.measure_state(rs.merge_states([unchecked, *parts[1:]]))
