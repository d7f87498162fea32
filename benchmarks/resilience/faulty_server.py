"""Does a server that fails at random change a number, or keep a pass longer than it says?

``python -m benchmarks faulty_server`` runs ``rankme score`` again and again on zarr stores behind a server on loopback,
by HTTP and by S3 where s3fs is installed. Each run draws a fault (statuses, bodies that are cut, silent, slow, altered
or of another version), the objects and methods that it befalls, and whether it passes or stays; some runs draw a fault
for every request. A run must end with the number of the folder, bit by bit, or with exit code 3 or 5 and one line that
says why; a fault that passes must end with the number; and no run may take longer than stated.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

from benchmarks.harness import processes
from benchmarks.harness.experiment import Experiment, table
from benchmarks.resilience.object_server import BODIES, STATUSES, ObjectServer

SECONDS_A_REQUEST = 2.0
_SLACK_S = 15.0  # for a process to start and end on a busy machine
_FAULTS: tuple[int | str, ...] = (*STATUSES, *BODIES)
_UNSEEN = {"short", "empty", "flipped", "page"}  # bodies that no statement of a server need contradict
_NAMES = ("plain", "shards", "raw", "v2")
_OBJECTS = {"chunk": ("/0",), "chunks": ("/0", ".0"), "metadata": ("zarr.json", ".zarray"), "everything": ("",)}
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}  # fmt: skip


class Draw(NamedTuple):
    """Run: what is read and how, the fault, what it befalls, and how many of those requests (None for all)."""

    protocol: str
    name: str
    rows: tuple[int, int]
    missing: str
    fault: int | str
    objects: str
    methods: tuple[str, ...]
    times: int | None
    states_checksums: bool

    @property
    def passes(self) -> bool:
        """Whether another attempt gets what was requested, and the server's statements show that it must be made."""
        is_part = self.name == "shards"  # no checksum of a part is stated, and its length always is
        is_seen = self.fault not in _UNSEEN or (self.fault != "flipped" if is_part else self.states_checksums)
        is_passing = self.fault not in (403, 404, "changed")
        return (self.times is not None and is_passing and is_seen and self.methods == ("GET",)) or self.fault == "slow"


def drawn(generator: random.Random, protocols: list[str]) -> Draw:
    """Draw a run."""
    return Draw(
        protocol=generator.choice(protocols),
        name=generator.choice(_NAMES),
        rows=generator.choice([(0, 600), (230, 430)]),
        missing=generator.choice(["error", "skip", "fill"]),
        fault=generator.choice(_FAULTS),
        objects=generator.choice([*_OBJECTS]),
        methods=generator.choice([("GET",), ("HEAD",), ("GET", "HEAD")]),
        times=generator.choice([1, 1, 2, None]),
        states_checksums=generator.random() < 0.7,
    )


class Faults:
    """Choice of an answer: the fault of a draw for what it befalls; in a storm, any fault for any request."""

    def __init__(self, draw: Draw, seed: int, storm: float) -> None:
        self._draw, self._generator, self._storm = draw, random.Random(seed), storm
        self._left: Counter[tuple[str, str]] = Counter()

    def __call__(self, method: str, path: str) -> int | str | None:
        if self._storm:
            return self._generator.choice(_FAULTS) if self._generator.random() < self._storm else None
        endings = _OBJECTS[self._draw.objects]
        if method not in self._draw.methods or not path.endswith(endings):
            return None
        self._left[method, path] += 1
        is_due = self._draw.times is None or self._left[method, path] <= self._draw.times
        return self._draw.fault if is_due else None


@contextmanager
def stores() -> Iterator[Path]:
    """Write the stores into a folder that is a server's root, with one bucket."""
    generator = np.random.default_rng(0)
    rows = (generator.standard_normal((600, 32)) * np.linspace(1.0, 0.05, 32)).astype(np.float32)
    layouts: dict[str, dict[str, Any]] = {
        "plain": {"chunks": (100, 32)},
        "shards": {"chunks": (20, 32), "shards": (100, 32)},
        "raw": {"chunks": (100, 32), "compressors": None},
        "v2": {"chunks": (100, 32), "zarr_format": 2},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, layout in layouts.items():
            path = Path(folder, "bucket", f"{name}.zarr")
            zarr.create_array(path, shape=rows.shape, dtype=rows.dtype, **layout)[:] = rows
        yield Path(folder)


def score(uri: str, draw: Draw, environment: Mapping[str, str]) -> tuple[int, str, str, float]:
    """Run the command; return its exit code, its numbers, its errors and its seconds."""
    command = [sys.executable, "-m", "rankme_stream", "score", uri, "--quiet", "--json", "-", "--missing", draw.missing]
    command += ["--rows", f"{draw.rows[0]}:{draw.rows[1]}"]
    began = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=processes.ROOT, check=False
    )
    numbers = ""
    if done.returncode == 0:
        plain = json.loads(done.stdout)
        numbers = json.dumps([plain[name] for name in ("estimates", "spectrum", "rows_read")], sort_keys=True)
    return done.returncode, numbers, done.stderr, time.monotonic() - began


def broken_promise(draw: Draw, found: tuple[int, str, str, float], wanted: str, *, is_storm: bool) -> str | None:
    """Return which promise a run broke; None if it kept all."""
    code, numbers, errors, elapsed_s = found
    is_gone = draw.fault == 404 and draw.methods == ("GET", "HEAD") and draw.times is None and not is_storm
    if code == 0 and numbers != wanted and not (is_gone and draw.missing != "error"):
        return "another number"
    if code not in (0, 3, 5):
        return f"exit code {code}"
    if code and (errors.count("\n") != 1 or not errors.startswith("rankme: error: ")):
        return "more than one line, or none"
    if code and draw.passes and not is_storm:
        return "gave up on a fault that passes"
    if code == 3 and "does not decode" in errors and not is_storm and draw.fault not in _UNSEEN:
        return "called a fault of the server a damaged chunk"
    longest_s = _SLACK_S + 8 * SECONDS_A_REQUEST
    return f"took {elapsed_s:.0f} s" if elapsed_s > longest_s else None


def runs(root: Path, n_runs: int, seed: int, storm: float) -> dict[str, Any]:
    """Run the command on drawn faults; return how the runs ended, and the draws that broke a promise."""
    generator = random.Random(seed)
    protocols = ["http", *(["s3"] if find_spec("s3fs") else [])]
    ends: Counter[str] = Counter()
    longest_s, broken, wanted = 0.0, [], {}
    for number in range(n_runs):
        draw = drawn(generator, protocols)
        folder = root / "bucket" / f"{draw.name}.zarr"
        if (key := (draw.name, draw.rows)) not in wanted:
            wanted[key] = score(str(folder), draw, {})[1]
        faults = Faults(draw, seed * 1000 + number, storm)
        with ObjectServer(root, faults, states_checksums=draw.states_checksums, pause_s=0.05) as server:
            uri = f"{server.url}/bucket/{folder.name}" if draw.protocol == "http" else f"s3://bucket/{folder.name}"
            environment = _CREDENTIALS | {
                "AWS_ENDPOINT_URL": server.url, "RANKME_REQUEST_SECONDS": str(SECONDS_A_REQUEST)
            }  # fmt: skip
            found = score(uri, draw, environment)
        ends[f"{draw.protocol}, exit {found[0]}"] += 1
        longest_s = max(longest_s, found[3])
        if (promise := broken_promise(draw, found, wanted[key], is_storm=storm > 0)) is not None:
            broken.append({"promise": promise, "draw": draw._asdict(), "errors": found[2][-500:]})
    return {"ends": dict(sorted(ends.items())), "longest_s": longest_s, "broken": broken}


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# Does a server that fails at random change a number?",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; RANKME_REQUEST_SECONDS={SECONDS_A_REQUEST:g}. "
        f"Faults: {', '.join(str(fault) for fault in _FAULTS)}. A promise is broken by another number than that of the "
        "folder, an exit code other than 0, 3 and 5, more than one line on stderr, giving up on a fault that passes, "
        "calling a chunk damaged that was not received, or a run of more than "
        f"{_SLACK_S + 8 * SECONDS_A_REQUEST:.0f} s.",
    ]
    rows = [
        [name, sum(part["ends"].values()), ", ".join(f"{end}: {n}" for end, n in part["ends"].items()),
         f"{part['longest_s']:.1f}", len(part["broken"])]
        for name, part in result["parts"].items()
    ]  # fmt: skip
    lines += table("Runs", ["faults", "runs", "ends", "longest (s)", "promises broken"], rows)
    for name, part in result["parts"].items():
        lines += [f"- {name}: {one['promise']}: {one['draw']}; {one['errors']}" for one in part["broken"]]
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page; return 1 if a promise was broken."""
    experiment = Experiment("faulty_server", __doc__, {"quick": "30 s", "default": "10 minutes"})
    experiment.parser.add_argument("--seed", type=int, default=0, help="of the faults that are drawn")
    seed = experiment.start().seed
    n_parts, n_runs = (1, 3) if experiment.size == "quick" else (3, 20)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(processes.ROOT), os.environ.get("PYTHONPATH", "")])
    parts = {}
    with stores() as root:
        for part in range(n_parts):
            for name, storm, n in (("one fault a run", 0.0, n_runs), ("a storm of faults", 0.15, n_runs // 3)):
                label = f"{name}, {part + 1}"
                parts[label] = experiment.part(label, runs, root, n, seed * 100 + part, storm)
    result = experiment.finish({"seed": seed, "parts": parts}, markdown)
    return 1 if any(part["broken"] for part in result["parts"].values()) else 0
