"""Sessions of icechunk: commits, changes without a commit, and what a repository on a disk may lose."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr

import rankme_stream as rs
from tests.writers.frame import CHUNK, N_FEATURES, check, dense_rankme, rows_of

ROWS = rows_of()
CHANGED = np.where(np.arange(len(ROWS))[:, None] < CHUNK, ROWS * np.float32(9), ROWS)


@pytest.fixture
def repository(tmp_path: Path) -> Any:
    """Repository with one commit: `emb` whole, `half` half written, `shards` sharded, `many` of many chunks."""
    found = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    session = found.writable_session("main")
    group = zarr.group(session.store)
    layouts: dict[str, dict[str, Any]] = {
        "emb": {"chunks": (CHUNK, N_FEATURES)},
        "half": {"chunks": (CHUNK, N_FEATURES)},
        "shards": {"chunks": (20, N_FEATURES), "shards": (CHUNK, N_FEATURES)},
        "many": {"chunks": (3, 4)},
    }
    for name, layout in layouts.items():
        array = group.create_array(name, shape=ROWS.shape, dtype="f4", **layout)
        n_rows = len(ROWS) // 2 if name == "half" else len(ROWS)
        array[:n_rows] = ROWS[:n_rows]
    session.commit("first")
    return found


def committed(repository: Any) -> Any:
    return repository.readonly_session("main").store


@pytest.mark.parametrize("name", ["emb", "shards", "many"])
def test_rows_are_read_to_the_same_bits(repository: Any, name: str) -> None:
    check(committed(repository), ROWS, path=name)
    check(zarr.open_group(committed(repository), mode="r")[name], ROWS)
    check(repository.writable_session("main").store, ROWS, path=name)


def test_chunks_that_were_never_written_are_missing_and_no_others(repository: Any) -> None:
    with pytest.raises(rs.RankMeError, match=r"chunk half/c/3/0 \(rows 300-599\) is missing, 3 in all"):
        rs.measure(rs.open_source(committed(repository), path="half"))
    source = rs.open_source(committed(repository), path="half")
    assert rs.measure(source, missing="skip").rows_read == len(ROWS) // 2


def test_the_snapshot_is_the_fingerprint_and_the_name(repository: Any) -> None:
    first = rs.open_source(committed(repository), path="emb")
    again = rs.open_source(committed(repository), path="emb")
    assert first.fingerprint(0, 600) == again.fingerprint(0, 600)
    assert repository.readonly_session("main").snapshot_id in first.uri
    session = repository.writable_session("main")
    zarr.open_group(session.store, mode="a")["emb"][CHUNK + 7] = 1  # rows that no fingerprint reads
    uncommitted = rs.open_source(session.store, path="emb")
    assert "uncommitted" in uncommitted.uri
    assert uncommitted.fingerprint(0, 600) != first.fingerprint(0, 600)
    session.commit("second")
    second = rs.open_source(committed(repository), path="emb")
    assert len({source.fingerprint(0, 600) for source in (first, second)}) == 2


def test_changes_without_a_commit_are_read_and_not_taken_for_the_commit(repository: Any, tmp_path: Path) -> None:
    session = repository.writable_session("main")
    zarr.open_group(session.store, mode="a")["emb"][:CHUNK] = CHANGED[:CHUNK]
    check(session.store, CHANGED, path="emb")
    check(committed(repository), ROWS, path="emb")
    state = tmp_path / "x.state"
    rs.measure(rs.open_source(committed(repository), path="emb"), checkpoint=state)
    with pytest.raises(rs.RankMeError, match=r"are not stored as they were"):
        rs.measure(rs.open_source(session.store, path="emb"), checkpoint=state)


def test_a_later_commit_does_not_go_on_from_the_checkpoint_of_an_earlier_one(repository: Any, tmp_path: Path) -> None:
    state = tmp_path / "x.state"
    rs.measure(rs.open_source(committed(repository), path="emb"), checkpoint=state)
    before = rs.open_source(committed(repository), path="emb")
    session = repository.writable_session("main")
    zarr.open_group(session.store, mode="a")["emb"][:CHUNK] = CHANGED[:CHUNK]
    session.commit("second")
    with pytest.raises(rs.RankMeError, match=r"are not stored as they were"):
        rs.measure(rs.open_source(committed(repository), path="emb"), checkpoint=state)
    measured = rs.measure(rs.open_source(committed(repository), path="emb"))
    assert measured.rankme.value == pytest.approx(dense_rankme(CHANGED), rel=1e-9)
    assert rs.measure(before, checkpoint=state).rankme.value == pytest.approx(dense_rankme(ROWS), rel=1e-9)


def test_a_session_that_reads_opens_in_another_process(repository: Any) -> None:
    source = rs.open_source(committed(repository), path="emb")
    check(pickle.loads(pickle.dumps(source.reopen())), ROWS)


@pytest.mark.parametrize("folder", ["chunks", "manifests"])
def test_a_repository_that_lost_files_is_refused_in_one_line_and_never_filled(
    repository: Any, folder: str, tmp_path: Path
) -> None:
    for path in (tmp_path / "repo" / folder).iterdir():
        path.unlink()
    again = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    with pytest.raises(rs.RankMeError, match=r"emb/c/\d/0 of <IcechunkStore.*not found") as caught:
        rs.measure(rs.open_source(committed(again), path="emb"), missing="fill")
    assert "\n" not in str(caught.value) and "context" not in str(caught.value)
