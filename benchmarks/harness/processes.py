"""Whole processes, watched while they run: time, CPU, memory, and the load of everything else on the machine."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rankme_stream.numerics import machine

ROOT = Path(__file__).parents[2]
_PERIOD_S = 0.01
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_QUIET = 0.05  # share of the processors' time that others and the host may take; above it a run counts as disturbed
_EXTRA = 3  # disturbed runs are repeated, up to this many times the runs needed


@dataclass(frozen=True)
class Run:
    """One finished process; ``peak_bytes`` is anonymous plus shared resident memory, sampled.

    ``idle_s`` is unused processor time, ``stolen_s`` that of the host, ``others_s`` that of other processes; each is
    summed over the processors.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    idle_s: float
    stolen_s: float
    others_s: float
    output: str

    @property
    def is_quiet(self) -> bool:
        """Whether other processes and the host left the machine to this process."""
        return self.stolen_s + self.others_s <= _QUIET * self.wall_s * machine.cores() + 4 * _TICK_S

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON types, without the output."""
        plain = asdict(self)
        del plain["output"]
        return plain | {"is_quiet": self.is_quiet}


def run(
    command: Sequence[str], *, environment: dict[str, str] | None = None, timeout_s: float | None = None,
    allowed: Sequence[int] = (0,),
) -> Run:  # fmt: skip
    """Run a command in the repository's root; return its standard output, time and memory.

    ``allowed`` are the exit codes of a command that did not fail.

    Raises
    ------
    RuntimeError
        If the command fails; the text is the end of its standard error.
    """
    before, began = _processor_seconds(), time.perf_counter()
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | (environment or {}),
    )  # fmt: skip
    peak = _Peak(child.pid)
    children = os.times()
    try:
        output, errors = child.communicate(timeout=timeout_s)
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        peak_bytes = peak.stop()
    wall_s, after, ended = time.perf_counter() - began, _processor_seconds(), os.times()
    if child.returncode not in allowed:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}: {errors[-2000:]}")
    cpu_s = ended.children_user + ended.children_system - children.children_user - children.children_system
    busy, idle, stolen = (late - early for early, late in zip(before, after, strict=True))
    return Run(wall_s, cpu_s, peak_bytes, idle, stolen, max(0.0, busy - cpu_s), output)


def quiet_runs(make: Callable[[], Run], count: int) -> list[Run]:
    """Return a number of runs; repeat disturbed ones up to a limit, and then take the least disturbed."""
    runs: list[Run] = []
    while sum(one.is_quiet for one in runs) < count and len(runs) < _EXTRA * count:
        runs.append(make())
    runs.sort(key=lambda one: (not one.is_quiet, one.stolen_s + one.others_s))
    return runs[:count]


def forget_peak() -> None:
    """Begin the peak of this process's memory anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Return the peak of this process's memory since it began anew, mapped files aside, bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak, mapped = (int(re.search(rf"^{name}:\s*(\d+) kB", status, re.MULTILINE)[1]) for name in ("VmHWM", "RssFile"))  # type: ignore[index]
    return 1024 * (peak - mapped)


def _processor_seconds() -> tuple[float, float, float]:
    """Return busy, idle and stolen seconds of all processors since the machine started."""
    fields = [
        int(field) * _TICK_S for field in Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()[1:]
    ]
    user, nice, system, idle, waiting, interrupts, soft, stolen = fields[:8]
    return user + nice + system + interrupts + soft, idle + waiting, stolen


class _Peak:
    """Peak of a process's resident memory, sampled until ``stop``."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/status")
        self._bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            with suppress(OSError):  # the process has ended
                self._bytes = max(self._bytes, machine.resident_in(self._path.read_bytes()))

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self._bytes
