"""Signals: one line, the right code, and the checkpoint kept, whenever they arrive."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import rankme_stream as rs
from tests.command_line import RANKME

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    path = tmp_path_factory.mktemp("signals") / "big.npy"
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(2_000_000, 512))
    rows[::4096] = 1.0
    return path


@pytest.mark.parametrize("numbers", [[signal.SIGHUP], [signal.SIGINT] * 3, [signal.SIGTERM, signal.SIGINT]])
def test_signals_in_quick_succession_end_the_pass_once(numbers, big, tmp_path):
    command = [*RANKME, "score", big, "--checkpoint", tmp_path / "kept"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "kept").exists():  # made when the pass begins
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.003)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in {CODES[number] for number in numbers}  # of two that wait, Python takes the lower first
    assert re.fullmatch(r"rankme: error: [^\n]+ the same command goes on from there\n", stderr), stderr
    assert rs.load_state(tmp_path / "kept").missing


# Runs the command; an interrupt arrives when the module named first is imported.
INTERRUPTED_IMPORT = """
import builtins, os, runpy, signal, sys
name, command, imported = sys.argv[1], sys.argv[2:], builtins.__import__
def interrupted(module, *arguments, **keywords):
    if module == name:
        builtins.__import__ = imported
        os.kill(os.getpid(), signal.SIGINT)
    return imported(module, *arguments, **keywords)
builtins.__import__ = interrupted
sys.argv = ["rankme", *command]
runpy.run_module("rankme_stream", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "module", ["rankme_stream.cli.signals", "rankme_stream.errors", "rankme_stream.cli.commands", "numpy", "zarr"]
)
def test_an_interrupt_while_modules_are_imported_is_one_line(module, big):
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, module, "score", str(big)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "rankme: error: interrupted\n")
