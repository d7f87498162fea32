"""Does any set of options, however absurd, end a command in more than one line of error, or lose a file?

``python -m benchmarks hostile_options`` draws commands, sources and values of every option from what breaks programs:
numbers of thousands of digits, NaN, empty and endless names, names of folders, links to themselves, devices, files of
other kinds, names full of control characters, and outputs that are inputs. Inputs are the same bytes afterwards.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from hashlib import blake2b
from pathlib import Path
from typing import Any

import click

from benchmarks.harness.experiment import Experiment
from benchmarks.resilience.hostile_commands import Ending, end_apart, end_here, judge, write_files, wrong_lines
from rankme_stream.cli.commands import cli

Case = tuple[Sequence[str], Callable[[Sequence[str]], Ending]]

_NUMBERS = (
    "0", "-1", "1", "2", "3", "8", "64", "100000", "9223372036854775807", "9223372036854775808",
    "18446744073709551615", "18446744073709551616", "9" * 320, "9" * 5000, "nan", "inf", "-inf", "1e999", "1e-320",
    "0.5", "0.999999", "0.9999999999999999", "1e-3", "0x10", "1_000", "\uff11\uff12", "", " ", "+3", "1.5",
    "x", "\x1b[2J",
)  # fmt: skip
_SIZES = (
    "8GiB",
    "300MiB",
    "1",
    "0",
    "10MiB",
    "0.5MiB",
    "999999999TB",
    "-5GiB",
    "9" * 320,
    "1e9",
    "",
    "GiB",
    "\u0661GiB",
)
_PATHS = (
    "a.npy", "dump.zarr", "dump.zarr::", "dump.zarr::x", "dump.zarr/inside.json", "labels.npy", "labels.npy::x",
    "flat.npy", "kept.state", "old.json", "broken.json", "deep.json", "plan.json", "empty.json", "notes.txt",
    "scores.csv", "folder", "folder/new.json", "folder.npy", "pipe", "pipe.npy", "loop", "no/such/file", "new.json",
    "new.state", "a" * 300, "", ".", "..", "-", "/dev/null", "x\udcff.npy", "\x1b]0;title\x07.npy", "line\nend.json",
    "rows:10", "rows:0", "rows:" + "9" * 30, "rows:999999999999999999", "column:x", "nosuch://x.zarr", "::", "a.npy::x",
    "./a.npy",
)  # fmt: skip
_RANGES = (
    "0:10", ":", "5:", ":7", "10:5", "0:0", "0:999999999999999999", "-1:5", f"{'9' * 5000}:", "a:b", "1/2", "0/1",
    "3/3", "0/0", f"0/{'9' * 30}", "0/9223372036854775807", "2,4", "8", "9", "1,1,1", "0", "2,", "9" * 4999,
)  # fmt: skip
_NOT_RUN = {"--engine", "--scheduler", "--device", "--tasks-for"}  # clusters and cards have benchmarks of their own
_KEPT = ("a.npy", "labels.npy", "dump.zarr/zarr.json", "dump.zarr/c/0/0", "notes.txt", "scores.csv")


def value(option: click.Option, generator: random.Random) -> str:
    """Return a value for an option, likely but not surely of its kind."""
    kind = option.type
    if generator.random() < 0.1:
        return generator.choice(_NUMBERS + _SIZES + _PATHS + _RANGES)
    if isinstance(kind, click.Choice):
        return str(generator.choice([*kind.choices, *kind.choices, "nonsense", ""]))
    if option.name == "memory_limit":
        return generator.choice(_SIZES)
    if option.name in ("rows", "part", "dims"):
        return generator.choice(_RANGES)
    if isinstance(kind, click.IntRange | click.FloatRange):
        return generator.choice(_NUMBERS)
    if option.name == "metric":
        return generator.choice(
            ["rankme", "lidar", "dims.2.rankme", f"dims.{'9' * 5000}.rankme", "normalized.vendi", "x"]
        )
    return generator.choice(_PATHS)


def command(generator: random.Random) -> list[str]:
    """Return the arguments of a command."""
    name = generator.choices(["score", "plan", "segment", "merge", "show", "compare", "demo"], [8, 3, 3, 2, 2, 4, 1])[0]
    arguments = [name]
    if name != "demo":
        likely = ["a.npy", "dump.zarr", "old.json", "kept.state"]
        arguments += [
            generator.choice(likely if generator.random() < 0.7 else _PATHS)
            for _ in range(generator.choice([0, 1, 1, 1, 1, 2, 3]))
        ]
    options = [
        one for one in cli.commands[name].params if isinstance(one, click.Option) and one.opts[0] not in _NOT_RUN
    ]
    if name == "segment" and generator.random() < 0.9:
        arguments += ["--part", generator.choice(["0/1", "1/2"]), "--state", generator.choice(_PATHS)]
    for option in generator.sample(options, min(len(options), generator.choice([0, 1, 1, 2, 2, 3, 5]))):
        arguments.append(option.opts[-1])
        if not option.is_flag:
            arguments.append(value(option, generator))
    return arguments


def cases(seed: int, n_sets: int, share_apart: float, lost: list[str]) -> Iterator[Case]:
    """Yield commands in the current folder, and note in ``lost`` those that changed a file which they may not."""
    generator = random.Random(seed)
    before = _digests()
    for _ in range(n_sets):
        arguments = command(generator)
        end = end_apart if generator.random() < share_apart else end_here
        yield arguments, end
        if (after := _digests()) != before:
            lost.append(ascii(arguments)[:400])
            before = after


def _digests() -> list[str]:
    return [blake2b(Path(name).read_bytes(), digest_size=8).hexdigest() for name in _KEPT]


def measured(seed: int, n_sets: int, share_apart: float) -> dict[str, Any]:
    """Run the commands of a seed in a folder that is removed."""
    lost: list[str] = []
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "inner"
        folder.mkdir()
        write_files(folder)
        with chdir(folder):
            judged = judge(cases(seed, n_sets, share_apart, lost))
    judged["wrong"] += [{"arguments": arguments, "faults": ["a file is changed"]} for arguments in lost]
    return {"name": f"seed {seed}", **judged}


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# What do absurd options do?",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}. All commands, with options and values drawn at "
        "random, some in a process of their own, where memory is measured. Wrong is a traceback, another exit code "
        "than those documented, no line of error, a character that a terminal obeys, an answer after more than 10 s "
        "of the processor, more memory than the limit and 50 MiB, or a changed input.",
        *wrong_lines(result["parts"]),
    ]
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page; return 1 if any command ended wrongly."""
    experiment = Experiment("hostile_options", __doc__, {"quick": "20 s", "default": "10 minutes"})
    experiment.start()
    os.environ["PYTHONUTF8"] = "1"
    n_sets, share_apart, seeds = (60, 0.05, [0]) if experiment.size == "quick" else (500, 0.04, [1, 2, 3, 4])
    parts = [experiment.part(f"seed {seed}", measured, seed, n_sets, share_apart) for seed in seeds]
    experiment.finish({"parts": parts}, markdown)
    return 1 if any(part["wrong"] for part in parts) else 0
