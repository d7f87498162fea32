"""Standard streams that are closed, full or unread: the exit code is right, and what was computed is not lost."""

from __future__ import annotations

import json
import os
import pty
import subprocess

import numpy as np
import pytest

from rankme_stream.errors import printable
from tests.command_line import RANKME


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("streams")
    np.save(path / "a.npy", np.random.default_rng(0).standard_normal((60, 4)))
    np.save(path / "labels.npy", np.array(["\x1b[2J\x1b]0;title\x07"] * 30 + ["x\n  rankme   999.0 ± 1e-9"] * 30))
    (path / "x\udcff.npy").write_bytes((path / "a.npy").read_bytes())
    return path


def shell(folder, line):
    """Run a line of the shell, in which ``$R`` is the command, and return its exit code and its streams."""
    environment = os.environ | {"R": " ".join(RANKME), "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_closed_stdout_ends_with_5_and_the_json_is_written(folder):
    code, _, err = shell(folder, "$R score a.npy --json closed.json >&-")
    assert (code, err.count("\n")) == (5, 1)
    assert "stdout is closed" in err
    assert json.loads((folder / "closed.json").read_text())["rows_read"] == 60


def test_a_full_stdout_ends_with_5_and_all_json_is_written(folder):
    code, _, err = shell(folder, "$R score a.npy ./a.npy --json full.jsonl >/dev/full")
    assert (code, err.count("\n")) == (5, 1)
    assert "No space left" in err
    assert len((folder / "full.jsonl").read_text().splitlines()) == 2


def test_a_reader_that_has_gone_ends_the_command_quietly_and_the_json_is_written(folder):
    line = "$R score a.npy --json pipe.json | true; echo ${PIPESTATUS[0]}"
    assert shell(folder, f"sleep 0; ({line}) ") == (0, "141\n", "")
    assert json.loads((folder / "pipe.json").read_text())["rows_read"] == 60


def test_what_stderr_does_not_take_is_lost_and_the_exit_code_is_not(folder):
    assert shell(folder, "$R score nope.npy 2>/dev/full")[0] == 3
    assert shell(folder, "$R score nope.npy 2>&-")[0] == 3
    code, out, _ = shell(folder, "$R score a.npy 2>&-")
    assert code == 0 and "participation_ratio" in out


def test_help_and_version_say_that_stdout_is_full(folder):
    for option in ("--help", "--version"):
        code, _, err = shell(folder, f"$R {option} >/dev/full")
        assert (code, err.count("\n")) == (5, 1)
    assert shell(folder, "$R --help | true; echo ${PIPESTATUS[0]}")[1:] in (("141\n", ""), ("0\n", ""))


def test_the_bare_command_prints_its_help_and_ends_with_2(folder):
    code, out, err = shell(folder, "$R")
    assert (code, out) == (2, "")
    assert err.startswith("Usage: rankme") and "compare" in err


def test_debug_prints_the_traceback_and_keeps_the_exit_code(folder):
    done = subprocess.run([*RANKME, "score", "nope.npy", "--debug"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "rankme: error: there is no file nope.npy: check the path"


def test_an_undecodable_path_is_printed_in_any_encoding(folder):
    code, out, err = shell(folder, "$R score $'x\\xff.npy'")
    assert (code, err) == (0, "")
    assert out.startswith("x\\udcff.npy\n")
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([*RANKME, "score", "a.npy"], cwd=folder, env=environment, capture_output=True)
    assert done.returncode == 0 and b"participation_ratio" in done.stdout


def on_terminal(folder, *arguments):
    """Return what a command writes to a terminal."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execv(RANKME[0], [*RANKME, *arguments])
    written = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        written += piece
    os.waitpid(process, 0)
    os.close(terminal)
    return written


def test_no_name_reaches_a_terminal_raw(folder):
    written = on_terminal(folder, "score", "a.npy", "--group-by", "labels.npy")
    assert b"title\x07" not in written and b"\x1b[2J\x1b]" not in written
    assert b"\r\n  rankme   999.0" not in written
    assert printable("\x1b[2J\x1b]0;title\x07").encode() in written
    assert b"\x1b[31m" not in on_terminal(folder, "score", "no\x1b[31m.npy")
