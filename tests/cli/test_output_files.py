"""Files that commands write: nothing but an older output of the command is replaced."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.cli.output_files import check_json, check_state
from rankme_stream.errors import OutputError, UsageError
from tests.command_line import rankme, refused


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).standard_normal((60, 4))
    np.save("a.npy", rows)
    zarr.create_array("dump.zarr", shape=rows.shape, chunks=(20, 4), dtype=rows.dtype)[:] = rows
    rs.segment("a.npy", part=(0, 1), state="kept.state")
    (tmp_path / "result.json").write_text(rs.measure("a.npy").to_json())
    (tmp_path / "plan.json").write_text(json.dumps(rs.plan("a.npy").to_dict()))
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    (tmp_path / "empty").touch()
    os.symlink("a.npy", "link.json")
    os.symlink("loop", "loop")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "inputs", "message"),
    [
        ("a.npy", ["a.npy"], "a.npy is read by this command"),
        ("link.json", ["./a.npy"], "link.json is read by this command"),
        ("dump.zarr/r.json", ["dump.zarr::"], "lies in dump.zarr"),
        ("dump.zarr/c/r.json", [None, "http://x/y", "dump.zarr::x"], "lies in dump.zarr"),
        ("notes.json", [], "is not JSON of rankme"),
        ("a.npy", [], "is not JSON of rankme"),
        ("kept.state", [], "is not JSON of rankme"),
        ("", [], "must name a file"),
    ],
)
def test_json_replaces_no_input_and_no_file_of_others(folder, file, inputs, message):
    with pytest.raises(UsageError, match=message):
        check_json(file, inputs)


@pytest.mark.parametrize("file", ["a" * 300, "loop/r.json", "no/r.json", "dump.zarr"])
def test_a_file_that_cannot_be_made_is_an_output_error(folder, file):
    with pytest.raises(OutputError):
        check_json(file, ["a.npy"])


def test_older_outputs_new_files_and_devices_may_be_written(folder):
    for file in ("result.json", "plan.json", "empty", "new.json", "/dev/null", "-", None):
        check_json(file, ["a.npy", "dump.zarr", None])
    for file in ("kept.state", "empty", "new.state", None):
        check_state(file, "state", ["a.npy"])
    for file in ("a.npy", "notes.json", "result.json"):
        with pytest.raises(UsageError, match="is not a state file"):
            check_state(file, "state", [])


def test_commands_check_their_outputs_before_they_read(folder):
    before = (folder / "a.npy").read_bytes()
    refused(2, "is read by this command, and --json would", "score", "a.npy", "--json", "a.npy")
    refused(2, "is not a state file, and --state would", "merge", "kept.state", "--state", "a.npy")
    refused(2, "is read by this command", "compare", "result.json", "a.npy", "--json", "result.json")
    refused(2, "is read by this command", "segment", "a.npy", "--part", "0/1", "--state", "a.npy")
    assert (folder / "a.npy").read_bytes() == before
    assert rankme("plan", "a.npy", "--json", "plan.json").returncode == 0
