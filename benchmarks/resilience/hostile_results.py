"""Does any damaged or forged result file end ``show`` or ``compare`` in more than one line of error?

``python -m benchmarks hostile_results`` damages real results of every kind: values of other types and impossible
numbers, keys that are gone or new, ends of intervals exchanged, bytes flipped and cut, literals that JSON does not
have, names full of control characters. Every file goes through ``rankme show`` and ``rankme compare``.
"""

from __future__ import annotations

import copy
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment
from benchmarks.resilience.hostile_commands import Ending, end_apart, end_here, judge, wrong_lines

Case = tuple[Sequence[str], Callable[[Sequence[str]], Ending]]

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.0, -0.0, 1e308, -1e308, 5e-324, 2**63, 2**64, -(2**63), 10**19, 0.5, "inf", "-inf",
    "nan", "", "x", "\x1b[2J\x1b]0;title\x07", "a\n  rankme   999", "\u202e\u2066", "\ud800", "x" * 5000, [], [[]],
    {}, {"": None}, [1, 2], ["a"], {"value": 1}, [None] * 3, {"details": []}, 1e-300, 123456789012345678901234567890,
)  # fmt: skip
_LITERALS = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 3000, "{", "nul", "'x'", "\\", "\0", "\u2028")


def results() -> list[dict[str, Any]]:
    """Return results of every kind, in their JSON form."""
    rows = np.random.default_rng(0).standard_normal((30_000, 8)) * np.linspace(1.0, 0.1, 8)
    few = rows[:600]
    measured = [
        rs.measure(few, normalize=True, dims=(2, 5), groups=np.arange(600) % 7),
        rs.measure(few, precision="float32"),
        rs.measure(few, method="rsvd", rank=2, oversampling=1, tolerance=1e9),
        rs.measure(rows, sample=True, tolerance=5e-2),
        rs.measure(rows, population=True, tolerance=1.0),
        rs.measure(np.zeros((3, 2))),
    ]
    failed = {"type": "MissingChunksError", "message": "a chunk is missing", "exit": 3}
    return [*(one.to_dict() for one in measured), {"schema_version": 1, "source": {"uri": "x.zarr"}, "error": failed}]


def damaged(document: dict[str, Any], generator: random.Random) -> str:
    """Return the text of a result with one to four faults."""
    changed = copy.deepcopy(document)
    for _ in range(generator.randint(1, 3)):
        _change(changed, generator)
    text = json.dumps(changed, indent=generator.choice([None, 2]), ensure_ascii=generator.random() < 0.9)
    kind = generator.random()
    if kind < 0.1:
        text = text[: generator.randrange(len(text))]
    elif kind < 0.2:
        place = generator.randrange(len(text))
        text = text[:place] + generator.choice(_LITERALS) + text[place + generator.randint(0, 3) :]
    elif kind < 0.3:
        text = "\n".join([json.dumps(document), text, json.dumps(changed)])
    return text


def _change(document: dict[str, Any], generator: random.Random) -> None:
    """Change one place of a document, deep or not."""
    holder: Any = document
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        if not keys:
            return
        key = generator.choice(keys)
        if isinstance(holder[key], dict | list) and generator.random() < 0.85:
            holder = holder[key]
            continue
        break
    kind = generator.random()
    if kind < 0.15 and isinstance(holder, dict):
        del holder[key]
    elif kind < 0.25 and isinstance(holder, dict):
        holder[generator.choice([one for one in _VALUES if isinstance(one, str)])] = holder[key]
    elif kind < 0.35 and isinstance(holder, dict) and {"lower", "upper"} <= {*holder}:
        holder["lower"], holder["upper"] = holder["upper"], holder["lower"]
    elif kind < 0.45 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = holder[key] * generator.choice([-1, 0, 2, 1e-9, 1e300, 1e-300])
    else:
        holder[key] = copy.deepcopy(generator.choice(_VALUES))


def cases(seed: int, n_files: int, share_apart: float) -> Iterator[Case]:
    """Yield two commands for each file, in the current folder."""
    generator = random.Random(seed)
    documents = results()
    Path("good.json").write_text(json.dumps(documents[0]), encoding="utf-8")
    for _ in range(n_files):
        text = damaged(generator.choice(documents), generator).encode("utf-8", "surrogatepass")
        if generator.random() < 0.05:
            text = bytes(byte ^ (generator.random() < 0.001) for byte in text)
        Path("m.json").write_bytes(text)
        end = end_apart if generator.random() < share_apart else end_here
        yield ["show", "m.json"], end
        metric = generator.choice(["rankme", "nesum", "normalized.vendi", "dims.2.rankme", "lidar", "presets.reptrix"])
        extra = generator.choice([[], ["--allow-mixed"], ["--json", "-"], ["--select", "highest"]])
        yield ["compare", "m.json", "good.json", "--metric", metric, *extra], end


def measured(seed: int, n_files: int, share_apart: float) -> dict[str, Any]:
    """Run every command of a seed in a folder that is removed."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        return {"name": f"seed {seed}", **judge(cases(seed, n_files, share_apart))}


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# What do damaged and forged result files do?",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}. Each file goes through `rankme show` and "
        "`rankme compare`, some of them in a process of their own. Wrong is a traceback, another exit code than those "
        "documented, no line of error, a character that a terminal obeys, or an answer after more than 10 s "
        "of the processor.",
        *wrong_lines(result["parts"]),
    ]
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page; return 1 if any command ended wrongly."""
    experiment = Experiment("hostile_results", __doc__, {"quick": "10 s", "default": "5 minutes"})
    experiment.start()
    os.environ["PYTHONUTF8"] = "1"
    is_quick = experiment.size == "quick"
    n_files, share_apart, seeds = (40, 0.02, [0]) if is_quick else (1_250, 0.003, [1, 2, 3, 4])
    parts = [experiment.part(f"seed {seed}", measured, seed, n_files, share_apart) for seed in seeds]
    experiment.finish({"parts": parts}, markdown)
    return 1 if any(part["wrong"] for part in parts) else 0
