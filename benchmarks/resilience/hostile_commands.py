"""Commands given hostile input: run in this process or in their own, and judged by how they end."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import zarr

import rankme_stream as rs
from benchmarks.harness import processes
from benchmarks.harness.experiment import table
from rankme_stream.cli.commands import run

CODES = {0, 2, 3, 4, 5}  # in which a command may end; 1 is a defect
LONGEST_S = 10.0
_GIVEN_UP_S = 120  # by the clock, on a machine that is busy with other work
_SPARE = 50 * 2**20  # bytes above the limit of memory
_CONTROL = re.compile(r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


class GivenUpError(Exception):
    """A command that did not end."""


@dataclass(frozen=True)
class Ending:
    """How a command ended: exit code, output, time of the processor, and peak memory where that was seen."""

    code: int
    out: str
    err: str
    seconds: float
    peak_bytes: int = 0

    def faults(self, arguments: Sequence[str]) -> list[str]:
        """Return what is wrong with it; nothing for a command that ends as documented."""
        is_free = bool({"--debug", "--verbose"} & {*arguments})  # to print lines of its own
        lines = self.err.splitlines()
        wrong = {
            f"exit code {self.code}": self.code not in CODES,
            "traceback": "Traceback" in self.err and "--debug" not in arguments,
            "slow": self.seconds > LONGEST_S,
            "unprintable": bool(_CONTROL.search(self.out + self.err)),
            "no reason": self.code not in (0, 1) and "rankme: error: " not in self.err,
            "a line of its own": not is_free and any(not line.startswith("rankme: ") for line in lines),
            "memory": self.peak_bytes > _limit(arguments) + _SPARE,
        }
        return [fault for fault, is_so in wrong.items() if is_so]


def _limit(arguments: Sequence[str]) -> float:
    """Return the bytes that ``--memory 300MiB`` allows; any other value is refused or above what is held here."""
    return 300 * 2**20 if "300MiB" in arguments else math.inf


def end_here(arguments: Sequence[str]) -> Ending:
    """Run a command in this process."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace") for _ in range(2)]
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(_GIVEN_UP_S)
    began = time.process_time()
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        code = run([*arguments])
    seconds = time.process_time() - began
    signal.alarm(0)
    texts = [stream.buffer.getvalue().decode() for stream in streams if not stream.flush()]
    return Ending(code, *texts, seconds)


def _give_up(number: int, frame: FrameType | None) -> None:
    raise GivenUpError


def end_apart(arguments: Sequence[str]) -> Ending:
    """Run a command in a process of its own, and note the memory that it held at most."""
    environment = os.environ | {"PYTHONPATH": str(processes.ROOT)}
    command = [sys.executable, "-m", "rankme_stream", *map(os.fsencode, arguments)]
    with open("out", "w+b") as out, open("err", "w+b") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, stdin=subprocess.DEVNULL)
        signal.signal(signal.SIGALRM, lambda *_: process.kill())
        signal.alarm(_GIVEN_UP_S)
        _, status, usage = os.wait4(process.pid, 0)
        signal.alarm(0)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = [Path(name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err")]
    return Ending(process.returncode, *texts, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def judge(cases: Iterable[tuple[Sequence[str], Callable[[Sequence[str]], Ending]]]) -> dict[str, Any]:
    """Run commands; return how many ended in each code, the longest time, and the commands that ended wrongly."""
    codes: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    slowest, n_cases = 0.0, 0
    for arguments, end in cases:
        n_cases += 1
        try:
            ending = end(arguments)
        except Exception as error:  # noqa: BLE001 - what no command may end in is what is looked for
            signal.alarm(0)
            wrong.append({"arguments": ascii(arguments)[:400], "faults": [f"{type(error).__name__}: {error}"[:200]]})
            continue
        codes[str(ending.code)] += 1
        slowest = max(slowest, ending.seconds)
        if faults := ending.faults(arguments):
            wrong.append({"arguments": ascii(arguments)[:400], "faults": faults, "err": ascii(ending.err)[-300:]})
    return {"commands": n_cases, "codes": dict(sorted(codes.items())), "slowest_s": slowest, "wrong": wrong}


def write_files(folder: Path) -> None:
    """Write dumps, labels, results and other files of every kind that a command may be pointed at."""
    rows = np.random.default_rng(0).standard_normal((300, 8))
    np.save(folder / "a.npy", rows)
    np.save(folder / "labels.npy", np.repeat(["one", "tw\x1bo", "three\n"], 100))
    np.save(folder / "flat.npy", rows[0])
    stored = zarr.create_array(folder / "dump.zarr", shape=rows.shape, chunks=(100, 8), dtype=rows.dtype)
    stored[:] = rows
    rs.segment(folder / "a.npy", part=(0, 1), state=folder / "kept.state")
    (folder / "old.json").write_text(rs.measure(folder / "a.npy", groups="rows:100", normalize=True).to_json())
    (folder / "broken.json").write_text('{"schema_version": 1, "source": {"uri": 5}}')
    (folder / "deep.json").write_text('{"schema_version": ' + "[" * 100_000)
    (folder / "plan.json").write_text(json.dumps(rs.plan(folder / "a.npy").to_dict()))
    (folder / "scores.csv").write_text("source,score\na.npy,1\nold.json,2\n")
    (folder / "notes.txt").write_text("what nobody may lose")
    (folder / "empty.json").touch()
    (folder / "folder.npy").mkdir()
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    for name in ("pipe", "pipe.npy"):
        os.mkfifo(folder / name)


def wrong_lines(parts: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of a page that show how commands ended, and the first that ended wrongly."""
    rows = [
        [
            part["name"], f"{part['commands']:,}", ", ".join(f"{code}: {n:,}" for code, n in part["codes"].items()),
            f"{part['slowest_s']:.1f}", len(part["wrong"]),
        ]
        for part in parts
    ]  # fmt: skip
    lines = table("How they ended", ["commands", "run", "exit codes", "longest, s", "wrong"], rows)
    examples = [one for part in parts for one in part["wrong"]][:20]
    return [*lines, "", *(f"- `{one['arguments']}`: {', '.join(one['faults'])}" for one in examples)]
