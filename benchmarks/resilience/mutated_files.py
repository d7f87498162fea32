"""Is every damaged or hostile file, of any format, refused in one line, or measured as its own reader reads it?

``python -m benchmarks mutated`` writes a small file in every format, and changes it at random: bits flipped, bytes cut,
put in or repeated, lengths in headers and footers set to extremes; the seed of each case is its number. Each file is
measured with a limit of memory, in processes that go on after a case that ended the one before. There must be a number
only where the format's own reader accepts the file and reads the same values; anything else must be an error of ours,
on one line, within 10 s, and within the limit and 50 MiB. Formats whose own reader is not installed are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.harness import processes
from benchmarks.harness.experiment import Experiment, Size, table
from benchmarks.harness.stored_formats import STORED_FORMATS
from benchmarks.resilience import mutated_cases
from rankme_stream.numerics import machine

_GOOD = ("refused", "right")
_PART = 1_000  # cases
_SHOWN = 100  # cases that are not good, at most
_CASES: dict[Size, int] = {"quick": 30, "default": 1_000, "full": 10_000}


def judged(folder: Path, names: list[str], first: int, stop: int) -> list[dict[str, Any]]:
    """Judge cases of some formats in turn, in processes that go on after a case that ended the one before."""
    found: list[dict[str, Any]] = []
    while first < stop:
        command = [sys.executable, "-m", mutated_cases.__name__, str(folder), json.dumps(names), str(first), str(stop)]
        done = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        found += [case | result for case, result in zip(lines[::3], lines[2::3], strict=False)]
        if not lines:
            raise SystemExit(done.stderr)
        if len(lines) % 3:  # the process ended, while we measured or while the format's own reader read
            outcome = "ended" if len(lines) % 3 == 1 else "ended its reader"
            found.append(lines[-(len(lines) % 3)] | {"outcome": outcome, "error": f"exit {done.returncode}"})
        first = found[-1]["place"] + 1
    return found


def part(folder: Path, names: list[str], first: int, stop: int) -> dict[str, Any]:
    """Judge cases in as many processes as there are cores; return what they came to by format, and the bad ones."""
    for name in names:
        mutated_cases.template(folder, name)
    n_processes = min(machine.cores(), stop - first)
    edges = [first + (stop - first) * number // n_processes for number in range(n_processes + 1)]
    with ThreadPoolExecutor(n_processes) as pool:
        lists = pool.map(lambda low, high: judged(folder, names, low, high), edges[:-1], edges[1:])
        cases = [case for some in lists for case in some]
    return {"formats": {name: _outcomes([one for one in cases if one["format"] == name]) for name in names}}


def _outcomes(cases: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "outcomes": Counter(case["outcome"] for case in cases),
        "longest_s": max(case.get("seconds", 0.0) for case in cases),
        "peak_bytes": max(case.get("peak_bytes", 0) for case in cases),
        "bad": [case for case in cases if case["outcome"] not in _GOOD],
    }


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the cases of each format came to, of all parts together."""
    some: dict[str, list[dict[str, Any]]] = {}
    for one in parts:
        for name, outcomes in one["formats"].items():
            some.setdefault(name, []).append(outcomes)
    return {
        name: {
            "outcomes": sum((Counter(one["outcomes"]) for one in found), Counter()),
            "longest_s": max(one["longest_s"] for one in found),
            "peak_bytes": max(one["peak_bytes"] for one in found),
            "bad": [case for one in found for case in one["bad"]],
        }
        for name, found in some.items()
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# What becomes of damaged and hostile files?",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; measured with memory_limit "
        f"{mutated_cases.MEMORY_LIMIT // 2**20} MiB. Right: the format's own reader accepts the file and reads the "
        "rows that we measured, bit for bit. Not good is anything but that or an error of one line.",
    ]
    rows = []
    for name, one in result["formats"].items():
        counts = one["outcomes"]
        n_bad = sum(count for outcome, count in counts.items() if outcome not in _GOOD)
        cells = [sum(counts.values()), counts.get("refused", 0), counts.get("right", 0), n_bad]
        rows.append([name, *cells, f"{one['longest_s']:.2f}", f"{one['peak_bytes'] / 2**20:.0f}"])
    lines += table("Outcomes", ["format", "cases", "refused", "right", "not good", "longest s", "peak MiB"], rows)
    if result["left_out"]:
        lines += table("Left out", ["format", "why"], [*result["left_out"].items()])
    bad = [case for one in result["formats"].values() for case in one["bad"]][:_SHOWN]
    if bad:
        cells = [[case["format"], case["number"], case["outcome"], case.get("error", "")] for case in bad]
        lines += table("Not good", ["format", "case", "outcome", "error"], cells)
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page; return 1 if a case is not good."""
    minutes: dict[Size, str] = {"quick": "10 s", "default": "10 minutes", "full": "1 hour and a half"}
    experiment = Experiment("mutated", __doc__, minutes)
    experiment.parser.add_argument("--format", action="append", choices=STORED_FORMATS, help="of these formats only")
    arguments = experiment.start()
    wanted = arguments.format or STORED_FORMATS
    lacking = {name: STORED_FORMATS[name].lacking for name in wanted}
    left_out = {name: f"{libraries} is not installed" for name, libraries in lacking.items() if libraries}
    names, n_cases = [name for name in wanted if name not in left_out], _CASES[experiment.size]
    with tempfile.TemporaryDirectory() as folder:
        if experiment.size == "quick":  # all formats in one part, because starting processes takes longest
            parts = [experiment.part("all formats", part, Path(folder), names, 0, n_cases * len(names))]
        else:
            parts = [
                experiment.part(f"{name}, from {first}", part, Path(folder), [name], first, min(first + _PART, n_cases))
                for name in names
                for first in range(0, n_cases, _PART)
            ]
    result = experiment.finish({"formats": joined(parts), "left_out": left_out}, markdown)
    return int(any(one["bad"] for one in result["formats"].values()))
