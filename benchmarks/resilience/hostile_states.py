"""Does any state file, damaged or sealed with hostile content, end in more than one line of error?

``python -m benchmarks hostile_states`` makes state files of every method, damages some (flipped bits, cuts, pieces
moved or exchanged), and changes others and seals them with a right checksum: values of any JSON type anywhere, numbers
beyond all bounds, absent fields, arrays of other types, shapes and places, values that are not finite, deep nesting.
Each file is loaded, merged, measured and saved in this process; some are given to ``rankme show``, ``merge``, ``score
--checkpoint`` and ``segment --state`` as well. A file is refused by a ``StateError``, or ends in the numbers of the
file that it was made from, unless it was given other finite values. Nothing else may be raised, nor take 10 s or more
than 50 MiB.
"""

from __future__ import annotations

import json
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment, table
from rankme_stream.passes.state import state_file

_LONGEST_S = 10.0
_MOST_EXTRA_BYTES = 50 * 2**20
_HEAD = len(state_file.MAGIC) + 4
_DIGEST_BYTES = 32
_EXPECTED = ("refused", "the same numbers", "its own numbers")
_NAMES = ("open", "closed")  # of groups: labels are of the data, so a file with others has its own numbers
_METHODS: dict[str, dict[str, Any]] = {
    "gram": {"method": "gram"},
    "gram in float32": {"method": "gram", "precision": "float32"},
    "unit rows": {"method": "gram", "normalize": True},
    "tsqr": {"method": "tsqr"},
    "rsvd": {"method": "rsvd", "rank": 2, "oversampling": 1},
    "frequent directions": {"method": "frequent-directions", "rank": 3},
    "row sketch": {"method": "row-sketch", "rank": 256},
    "groups": {"method": "gram", "groups": "labels.npy"},
    "fewer rows than features": {"rows": (0, 6), "normalize": True},
}


class Healthy:
    """A state file as it was written: its bytes, its description, and the numbers that it holds."""

    def __init__(self, path: Path) -> None:
        self.raw = path.read_bytes()
        start, length = struct.unpack("<QQ", self.raw[-_DIGEST_BYTES - 16 : -_DIGEST_BYTES])
        self.arrays, self.text = self.raw[:start], self.raw[start : start + length]
        self.numbers = numbers(rs.load_state(path))

    def sealed(self, text: bytes, arrays: bytes | None = None, location: tuple[int, int] | None = None) -> bytes:
        """Return a file with another description, arrays or location, and a right checksum."""
        arrays = self.arrays if arrays is None else arrays
        whole = arrays + text + struct.pack("<QQ", *(location or (len(arrays), len(text))))
        return whole + blake2b(whole, digest_size=_DIGEST_BYTES).digest()


def numbers(state: rs.State) -> str | None:
    """Return every number of a state, or None if it lacks rows."""
    if state.missing:
        return None
    found = rs.measure_state(rs.merge_states([state]), tolerance=1.0).to_dict()
    return json.dumps([found[name] for name in ("estimates", "normalized", "spectrum", "groups")], sort_keys=True)


def healthy_states(folder: Path) -> dict[str, Healthy]:
    """Write a dump and a state file of each method, and of a part, and return them by name."""
    rows = np.random.default_rng(0).standard_normal((70_000, 8)) * np.linspace(1.0, 0.1, 8)
    np.save(folder / "rows.npy", rows.astype(np.float32))
    np.save(folder / "labels.npy", np.arange(70_000) // 2000)
    made = {}
    for name, options in _METHODS.items():
        path = folder / f"{name}.state"
        given = options | ({"groups": str(folder / "labels.npy")} if "groups" in options else {})
        rs.segment(folder / "rows.npy", part=(0, 1), state=path, **given)
        made[name] = Healthy(path)
    rs.measure(folder / "rows.npy", checkpoint=folder / "pass.state", tolerance=1e-9, passes=2, **_METHODS["rsvd"])
    rs.segment(folder / "rows.npy", part=(0, 2), state=folder / "part.state")
    made |= {f"a {name}": Healthy(folder / f"{name}.state") for name in ("pass", "part")}
    return made


def damaged(healthy: Healthy, other: Healthy, draw: random.Random) -> bytes:
    """Return a file that something went wrong with."""
    raw = bytearray(healthy.raw)
    place, length = draw.randrange(len(raw)), draw.randrange(1, 64)
    kind = draw.randrange(6)
    if kind == 0:
        for _ in range(draw.randrange(1, 4)):
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del raw[place:]
    elif kind == 2:
        raw[place : place + length] = bytes(len(raw[place : place + length]))
    elif kind == 3:
        raw[place:place] = draw.randbytes(length)
    elif kind == 4:
        raw[place:] = other.raw[place:] or b"\0"
    if kind == 5 or raw == other.raw:
        raw += draw.randbytes(length)
    return bytes(raw)


def junk(draw: random.Random) -> Any:
    """Return a value of any JSON type, or far from what is expected."""
    return draw.choice(
        [
            None, True, False, 0, 1, -1, 2, 3, 63, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**39, 10**400, -(10**18),
            0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), "", "x", "gram", "tsqr", "float64", "\ud800",
            "\x1b[2J\n", "é" * 1000, [], [0], [[]], [1, 2, 3], {}, {"": None}, {"node": [0, 0]}, "<f8", "|O", ">f8",
            "f8,f8", "(9,9)f8", "<U9", nested(draw.choice([10, 40, 400])),
        ]
    )  # fmt: skip


def nested(depth: int) -> Any:
    """Return lists within lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container and key within a document."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def change_description(healthy: Healthy, draw: random.Random) -> bytes:
    """Change one to three places of the description."""
    document = json.loads(healthy.text)
    named = [record["groups"][which] for record in document["records"] if "groups" in record for which in _NAMES]
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        every = [(box, key) for box, key in places(document) if not any(box is names for names in named)]
        box, key = draw.choice(every)
        kind = draw.randrange(6)
        if kind == 0:
            del box[key]
        elif kind == 1 and isinstance(box, list):
            box.insert(key, draw.choice([box[key], junk(draw)]))
        elif kind == 2 and isinstance(box, dict):
            box[draw.choice(["x", "basis", "groups", "node", "arrays", "turn", "columns"])] = junk(draw)
        elif kind == 3 and type(box[key]) is int:
            box[key] += draw.choice([-1, 1, 8, -8, 2**20, 2**40])
        elif kind == 4:
            other, name = draw.choice(every)
            box[key] = json.loads(json.dumps(other[name] if name in other or isinstance(other, list) else None))
        else:
            box[key] = junk(draw)
    return healthy.sealed(json.dumps(document).encode())


def change_arrays(healthy: Healthy, draw: random.Random) -> bytes:
    """Describe an array otherwise, or give it values that are not finite."""
    document = json.loads(healthy.text)
    record = draw.choice(document["records"])
    name = draw.choice(list(record["arrays"]))
    one = record["arrays"][name]
    kind = draw.randrange(6)
    if kind == 0:
        one["shape"] = draw.choice(
            [[], [0], [1], [2**40], [2**62, 0], [-1], [3, 3], [1] * 40, [2**20, 2**20], [0, 2**61]]
        )
    elif kind == 1:
        one["dtype"] = draw.choice(["|b1", "<f4", "<i8", "<u8", "<f8", ">f8", "|O", "<c16", "<M8[s]", "", "f", "|V8"])
    elif kind == 2:
        one["start"] = draw.choice([0, 1, 17, one["start"] - 8, one["start"] + 1, 2**62, len(healthy.arrays)])
    elif kind == 3:
        record["arrays"][draw.choice(["raw/new", "unit/gram", "groups/x", "raw", ""])] = record["arrays"].pop(name)
    elif kind == 4:
        document["records"].append(draw.choice(document["records"]))
    else:
        arrays = bytearray(healthy.arrays)
        if one["dtype"] == "<f8" and 0 not in one["shape"]:
            struct.pack_into("<d", arrays, one["start"], draw.choice([float("nan"), float("inf"), float("-inf")]))
            return healthy.sealed(healthy.text, bytes(arrays))
        one["shape"] = nested(3)
    return healthy.sealed(json.dumps(document).encode())


def change_values(healthy: Healthy, draw: random.Random) -> bytes:
    """Give an array other values that are finite: a file of other rows, or of none."""
    document = json.loads(healthy.text)
    described = [one for record in document["records"] for one in record["arrays"].values()]
    one = draw.choice([one for one in described if one["dtype"] == "<f8" and 0 not in one["shape"]])
    arrays = bytearray(healthy.arrays)
    for _ in range(draw.choice([1, 1, 4])):
        place = one["start"] + 8 * draw.randrange(int(np.prod(one["shape"], dtype=int)))
        value = draw.choice([0.0, -1.0, 1e-320, 1e300, -1e300, 2.0**53, draw.gauss(0.0, 1e4)])
        struct.pack_into("<d", arrays, place, value)
    return healthy.sealed(healthy.text, bytes(arrays))


def change_text(healthy: Healthy, draw: random.Random) -> bytes:
    """Write what is no description at all."""
    text = healthy.text
    place = draw.randrange(len(text))
    kind = draw.randrange(6)
    if kind == 0:
        depth = draw.choice([100, 5000, 50_000])
        return healthy.sealed(b"[" * depth + b"]" * depth)
    if kind == 1:
        return healthy.sealed(text[:place])
    if kind == 2:
        return healthy.sealed(text[:place] + draw.randbytes(3) + text[place:])
    if kind == 3:
        return healthy.sealed(text, location=(draw.choice([0, 2**63, place]), draw.choice([0, 5, 2**40, len(text)])))
    if kind == 4:
        number = draw.choice([b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"0x10", b"01"])
        return healthy.sealed(text.replace(b"0", number, draw.randrange(1, 3)))
    return healthy.sealed(b"[" + b"{}," * draw.choice([10, 30_000]) + b"0]")


def hostile(healthy: Healthy, other: Healthy, draw: random.Random) -> bytes:
    """Return a file with a right checksum, of content that no version writes."""
    change = draw.choice([change_description, change_description, change_description, change_arrays, change_text])
    return change(healthy, draw)


def valued(healthy: Healthy, other: Healthy, draw: random.Random) -> bytes:
    """Return a file with a right checksum and the form of a state, of other values: its numbers are its own."""
    return change_values(healthy, draw)


def outcome(path: Path, wanted: str | None) -> str:
    """Load, merge, measure and save a file in this process; return what came of it."""
    try:
        state = rs.load_state(path)
        rs.save_state(path.with_suffix(".saved"), state)
        found = numbers(state)
    except rs.RankMeError as error:
        text = str(error)
        if "\n" in text:
            return f"a message of several lines: {text!r}"
        return "refused" if isinstance(error, rs.errors.StateError) else f"{type(error).__name__}: {text}"
    except Exception as error:  # noqa: BLE001 - it is what this command looks for
        return f"TRACEBACK {type(error).__name__}: {error}"
    return "the same numbers" if found == wanted else "OTHER NUMBERS"


def run_command(path: Path, folder: Path, draw: random.Random) -> str:
    """Give a file to one of the commands that take one, as a process; return what came of it."""
    arguments = draw.choice(
        [
            ["show", path], ["merge", path], ["merge", path, path], ["compare", path],
            ["score", folder / "rows.npy", "--checkpoint", path, "--quiet"],
            ["segment", folder / "rows.npy", "--part", "0/1", "--state", path, "--quiet"],
        ]
    )  # fmt: skip
    command = [sys.executable, "-m", "rankme_stream", *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=6 * _LONGEST_S, check=False)
    except subprocess.TimeoutExpired:
        return "NO ANSWER"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode == 0:
        return "exit 0"
    is_clear = done.returncode in (2, 3, 4) and len(lines) == 1 and lines[0].startswith("rankme: error: ")
    return f"exit {done.returncode}" if is_clear else f"FAILED {done.returncode}: {lines[-1:]}"


@contextmanager
def measured_time(slow: list[float]) -> Iterator[None]:
    """Note how long the context takes."""
    began = time.perf_counter()
    yield
    slow.append(time.perf_counter() - began)


def batch(
    make: Callable[[Healthy, Healthy, random.Random], bytes], seed: str, n_files: int, every: int
) -> dict[str, Any]:
    """Make and try files; return how often each outcome occurred, the longest time and the memory added."""
    draw, counted, times = random.Random(seed), Counter[str](), [0.0]
    by_command: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        healthy = list(healthy_states(folder).values())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(n_files):
            one, other = draw.choice(healthy), draw.choice(healthy)
            path = folder / "tried.state"
            path.write_bytes(make(one, other, draw))
            with measured_time(times):
                found = outcome(path, one.numbers)
            counted["its own numbers" if found == "OTHER NUMBERS" and make is valued else found] += 1
            if every and number % every == 0:
                by_command[run_command(path, folder, draw)] += 1
        added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    return {
        "files": n_files, "outcomes": dict(counted), "commands": dict(by_command), "longest_s": max(times),
        "added_bytes": added,
    }  # fmt: skip


def faults(result: dict[str, Any]) -> list[str]:
    """Return what should not have happened, in words."""
    found = []
    for kind in result["kinds"]:
        for one in kind["batches"]:
            found += [text for text in one["outcomes"] if text not in _EXPECTED]
            found += [text for text in one["commands"] if not text.startswith("exit")]
            if one["longest_s"] > _LONGEST_S or one["added_bytes"] > _MOST_EXTRA_BYTES:
                found.append(f"{one['longest_s']:.1f} s, {one['added_bytes'] / 2**20:.0f} MiB more")
    return found


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# Does a state file that is damaged or hostile end in more than one line of error?",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; files of {len(_METHODS)} kinds of passes, of a "
        "second pass and of a part. A damaged file has a wrong checksum; a hostile one a right checksum over content "
        "that no version writes; the last kind has a right checksum over other finite values, which no check can tell "
        "from those of other rows. Other numbers, another exception than a `RankMeError`, an answer after 10 s or "
        "50 MiB of memory more would be faults.",
    ]
    rows = []
    for kind in result["kinds"]:
        counted, by_command = Counter[str](), Counter[str]()
        for one in kind["batches"]:
            counted.update(one["outcomes"])
            by_command.update(one["commands"])
        shown = ", ".join(f"{count} {text}" for text, count in sorted(by_command.items()))
        rows.append(
            [
                kind["name"], sum(one["files"] for one in kind["batches"]), counted["refused"],
                counted["the same numbers"], counted["its own numbers"], shown,
                f"{max(one['longest_s'] for one in kind['batches']):.2f} s",
                f"{max(one['added_bytes'] for one in kind['batches']) / 2**20:.0f} MiB",
            ]
        )  # fmt: skip
    header = ["files", "number", "refused", "same numbers", "own numbers", "commands", "longest", "memory added"]
    lines += table("What came of them", header, rows)
    lines += table("Faults", ["what"], [[text] for text in result["faults"]] or [["none"]])
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page; return 1 if there is a fault."""
    experiment = Experiment("hostile_states", __doc__, {"quick": "15 s", "default": "20 minutes"})
    experiment.parser.add_argument("--seed", type=int, default=0, help="seed of the files")
    seed = experiment.start().seed
    warnings.simplefilter("ignore")
    n_batches, n_files, every = (1, 16, 16) if experiment.size == "quick" else (10, 500, 125)
    kinds = []
    for name, make in (("damaged", damaged), ("hostile", hostile), ("of other values", valued)):
        batches = [
            experiment.part(f"{name} {number}", batch, make, f"{seed} {name} {number}", n_files, every)
            for number in range(n_batches if make is not valued else -(-n_batches // 5))
        ]
        kinds.append({"name": name, "batches": batches})
    found = faults({"kinds": kinds})
    result = experiment.finish({"seed": seed, "kinds": kinds, "faults": found}, markdown)
    return 1 if result["faults"] else 0
