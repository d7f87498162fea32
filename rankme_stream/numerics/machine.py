"""This machine: its processor, its cores, and the memory that this process holds and may take."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from threadpoolctl import threadpool_info

_UNKNOWN_RESIDENT_BYTES = 200 * 2**20  # where /proc is absent: an interpreter with numpy, scipy and zarr loaded
_SAMPLE_PERIOD_S = 0.05  # a sample takes 60 us and locks the memory map: every 10 ms was 2 % of a pass
_MAPPED_BYTES = 2**22  # of an array that is mapped by itself; from 1 MiB on, faults of temporary arrays cost 5 %
_KEPT_BYTES = 2**22  # free memory that a thread keeps for smaller ones
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
BLAS_CHECKED = {"blas_checked": True}  # of machines whose known products were right and whose BLAS kept to one thread
_RESIDENT = re.compile(rb"^Rss(?:Anon|Shmem):\s*(\d+) kB", re.MULTILINE)


def resident_bytes() -> int:
    """Return the anonymous plus shared resident memory of this process, bytes; mapped files are not counted."""
    try:
        return resident_in(Path("/proc/self/status").read_bytes())
    except OSError:
        return _UNKNOWN_RESIDENT_BYTES


def resident_in(status: bytes) -> int:
    """Return the anonymous plus shared resident memory, bytes, in the text of a ``/proc/PID/status``; 0 of a zombie."""
    return sum(int(kibibytes) * 1024 for kibibytes in _RESIDENT.findall(status))


def memory_bytes() -> int:
    """Return the memory that this process may use: that of the machine, or of its cgroup if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


@cache
def return_freed_memory() -> None:
    """Have the C library return arrays of 4 MiB or more to the system when they are freed; a setting of the process.

    Once an array of up to 32 MiB was freed, glibc takes later ones of that size from a pool of each thread, which keeps
    what is freed: passes in several threads then held up to half as much again as they used, now more and now less.
    Other C libraries lack the setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def cores() -> int:
    """Return the number of processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Return processor, BLAS and Python, on which the bits of a result may depend."""
    cpu = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass  # not Linux: only the architecture is known
    libraries = {
        f"{library['internal_api']} {library['version']} {library.get('architecture', '')}".strip()
        for library in threadpool_info()
        if library["user_api"] == "blas"
    }
    return {"cpu": cpu, "blas": ", ".join(sorted(libraries)) or "unknown", "python": platform.python_version()}


@dataclass(frozen=True)
class Limits:
    """Threads and memory that a pass may take.

    Attributes
    ----------
    workers
        Number of threads; None for as many as fit.
    cores
        Number of cores.
    base_bytes, memory_limit_bytes
        Bytes that the process holds already, and the most that it may hold.
    keeps_state
        Whether a checkpoint is written from that memory.
    """

    workers: int | None
    cores: int
    base_bytes: int
    memory_limit_bytes: int
    keeps_state: bool = True


def limits(workers: int | None, memory_limit: int | None) -> Limits:
    """Return the limits of this process; None takes every core, and half of the memory."""
    limit = memory_bytes() // 2 if memory_limit is None else memory_limit
    return Limits(workers, cores(), resident_bytes(), limit)


def worker(count: int) -> dict[str, Any]:
    """Return a description of ``count`` threads: the machine, and the versions on which the bits may depend."""
    facts = describe() | {"count": count, "threads": 1}
    return facts | {name: installed_version(name) for name in ("numpy", "scipy", "zarr", "numcodecs")}


@cache
def installed_version(name: str) -> str:
    """Return the version of an installed distribution, whose files take a millisecond to parse."""
    return version(name)


class PeakMemory:
    """Peak of the resident memory while the context is open, sampled every 50 ms."""

    def __init__(self) -> None:
        self.peak_bytes = resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="rankme-memory", daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_PERIOD_S):
            self.peak_bytes = max(self.peak_bytes, resident_bytes())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, resident_bytes())


def joined_workers(*listed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return all machines, with equal ones merged and counted by the largest number at work at once."""
    found: dict[str, dict[str, Any]] = {}
    for worker in (worker for workers in listed for worker in workers):
        before = found.setdefault(_kind(worker), dict(worker))
        before["count"] = max(before["count"], worker["count"])
        if was_checked(before) and not was_checked(worker):
            del before["blas_checked"]
    return list(found.values())


def are_alike(workers: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether machines give the same bits: the same processor, BLAS and versions."""
    return len(set(map(_kind, workers))) < 2


def _kind(worker: Mapping[str, Any]) -> str:
    return repr(sorted((name, value) for name, value in worker.items() if name not in ("count", *BLAS_CHECKED)))


def was_checked(worker: Mapping[str, Any]) -> bool:
    """Return whether the BLAS of a machine was checked: in passes of earlier versions it was not."""
    return bool(worker.get("blas_checked", False))
