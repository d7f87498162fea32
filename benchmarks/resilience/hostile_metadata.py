"""Is every store with damaged or hostile metadata refused in one line, or measured right?

``python -m benchmarks hostile_metadata`` changes the metadata of small dumps at random: values in the documents of zarr
v2 and v3, of shards, of packed and quantised numbers and of groups with consolidated metadata, bytes of their text, and
headers of ``.npy`` files. Each is measured with a limit of memory. A number must be that of the rows which zarr or
numpy reads there, decoded as the result states; anything else must be an error of ours, on one line, within 10 s and
within the limit and 50 MiB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.harness import processes
from benchmarks.harness.experiment import Experiment, Size, table
from benchmarks.resilience import metadata_cases

_GOOD = ("refused", "right")
_PART = 250  # cases


def judged(templates: Path, first: int, stop: int) -> list[dict[str, Any]]:
    """Judge cases in processes that go on after a case that ended the one before."""
    found: list[dict[str, Any]] = []
    while first < stop:
        command = [sys.executable, "-m", metadata_cases.__name__, str(templates), str(first), str(stop)]
        done = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        found += [case | result for case, result in zip(lines[::2], lines[1::2], strict=False)]
        if len(lines) % 2:
            found.append(lines[-1] | {"outcome": "ended", "error": f"exit {done.returncode}: {done.stderr[-200:]}"})
        elif done.returncode:
            raise SystemExit(done.stderr)
        first = found[-1]["number"] + 1 if found else stop
    return found


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of outcomes by template, what was refused with which error, and the cases that are not good."""
    by_template = {
        template: Counter(case["outcome"] for case in cases if case["template"] == template)
        for template in metadata_cases.TEMPLATES
    }
    return {
        "n_cases": len(cases),
        "outcomes": by_template,
        "errors": Counter(case["error"] for case in cases if case["outcome"] == "refused"),
        "bad": [case for case in cases if case["outcome"] not in _GOOD],
        "longest_s": max(case.get("seconds", 0.0) for case in cases),
        "peak_bytes": max(case.get("peak_bytes", 0) for case in cases),
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# What becomes of damaged and hostile metadata?",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; {result['n_cases']:,} cases from seed 0 on, "
        f"each measured with memory_limit 300 MiB. Longest {result['longest_s']:.2f} s, largest peak "
        f"{result['peak_bytes'] / 2**20:.0f} MiB. Right: the interval holds the number of the rows that zarr or numpy "
        "itself reads there; not good is anything but an error of one line or the right number.",
    ]
    rows = [
        [template, sum(counts.values()), counts.get("refused", 0), counts.get("right", 0),
         sum(count for outcome, count in counts.items() if outcome not in _GOOD)]
        for template, counts in result["outcomes"].items()
    ]  # fmt: skip
    lines += table("Outcomes", ["document", "cases", "refused", "right", "not good"], rows)
    lines += table("Refused with", ["error", "cases"], sorted(result["errors"].items()))
    if result["bad"]:
        lines += table("Not good", ["case", "outcome"], [[case["number"], case["outcome"]] for case in result["bad"]])
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page; return 1 if a case is not good."""
    minutes: dict[Size, str] = {"quick": "20 s", "default": "20 minutes"}
    experiment = Experiment("hostile_metadata", __doc__, minutes)
    experiment.start()
    n_cases = 60 if experiment.size == "quick" else 10_000
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        metadata_cases.write_templates(Path(folder))
        for first in range(0, n_cases, _PART):
            stop = min(first + _PART, n_cases)
            cases += experiment.part(f"cases {first} to {stop - 1}", judged, Path(folder), first, stop)
    result = experiment.finish(summary(cases), markdown)
    return int(bool(result["bad"]))
