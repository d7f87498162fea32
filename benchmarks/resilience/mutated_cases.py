"""Files of rows that are changed at random, and what measuring each of them comes to.

``python -m benchmarks.resilience.mutated_cases FOLDER FORMATS FIRST STOP`` judges cases of formats, a JSON list, in
turn: a line before each, with its place in the order, one when we are done with it, and one with what it came to, as
JSON.
"""

from __future__ import annotations

import json
import random
import re
import resource
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import rankme_stream as rs
from benchmarks.harness import processes
from benchmarks.harness.stored_formats import RAW_WIDTH, STORED_FORMATS, StoredFormat, rows_for

LONGEST_S = 10
MEMORY_LIMIT = 300 * 2**20
MEMORY_SLACK = 50 * 2**20
_ADDRESS_SPACE = 8 * 2**30  # of a process: what takes more has not asked whether there is so much
_SHAPE = (120, RAW_WIDTH)
_EDGE = 600  # bytes at the beginning and the end, where headers and footers lie
_EXTREMES = (
    0, 1, 2, 3, 7, 16, 119, 121, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**62,
    2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
_PIECES = (b"", b"\0" * 8, b"\xff" * 8, b"[" * 3000, b"1e999", b"\x80\x02", b"PK\x05\x06", b"\n", b"::", b"\x1b[31m")


def template(folder: Path, name: str) -> Path:
    """Return the sound file of a format; write it where it is not there."""
    stored = STORED_FORMATS[name]
    path = folder / f"{name.replace(', ', '-').replace(' ', '-')}{stored.ending}"
    if not path.exists():
        rows = np.random.default_rng(0).standard_normal(_SHAPE).astype(np.float32)
        stored.write(path, rows_for(stored, rows))
    return path


def changed(content: bytes, generator: random.Random) -> bytes:
    """Return the bytes of a file changed in one to three ways."""
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        content = generator.choice(_CHANGES)(content, generator)
    return content


def _place(content: bytes, generator: random.Random) -> int:
    """Return an offset: mostly near the beginning or the end."""
    n_bytes = len(content)
    where = generator.random()
    if where < 0.4:
        return generator.randrange(min(n_bytes, _EDGE) or 1)
    if where < 0.8:
        return max(0, n_bytes - 1 - generator.randrange(min(n_bytes, _EDGE) or 1))
    return generator.randrange(n_bytes or 1)


def _flipped(content: bytes, generator: random.Random) -> bytes:
    held = bytearray(content or b"\0")
    for _ in range(generator.randint(1, 4)):
        held[_place(held, generator) % len(held)] ^= 1 << generator.randrange(8)
    return bytes(held)


def _cut(content: bytes, generator: random.Random) -> bytes:
    place = _place(content, generator)
    return content[:place] if generator.random() < 0.7 else content[place:]


def _spliced(content: bytes, generator: random.Random) -> bytes:
    """Take bytes out, put some in, or repeat some of the file."""
    place, other = _place(content, generator), _place(content, generator)
    length = generator.choice((1, 4, 8, 32, 300))
    piece = content[other : other + length] if generator.random() < 0.5 else generator.choice(_PIECES)
    return content[:place] + piece + content[place + generator.choice((0, 0, len(piece), length)) :]


def _resized(content: bytes, generator: random.Random) -> bytes:
    """Write a number of bytes as a length, at any place or where a length of the rows stands."""
    n_bytes = generator.choice((2, 4, 4, 8, 8))
    value = generator.choice((*_EXTREMES, len(content), len(content) - 1, len(content) + 1))
    place = _place(content, generator)
    if generator.random() < 0.6:
        known = generator.choice((*_SHAPE, _SHAPE[0] * _SHAPE[1] * 2, _SHAPE[0] * _SHAPE[1] * 4, len(content)))
        sought = known.to_bytes(generator.choice((2, 4, 8)), "little")
        places = [found.start() for found in re.finditer(re.escape(sought), content)]
        if places:
            place, n_bytes = generator.choice(places), len(sought)
            value = generator.choice((value, known + 1, known - 1, known * 2))
    place -= place % generator.choice((1, 1, n_bytes))
    return content[:place] + (value % 2 ** (8 * n_bytes)).to_bytes(n_bytes, "little") + content[place + n_bytes :]


def _renumbered(content: bytes, generator: random.Random) -> bytes:
    """Replace a number that stands in the file as text, as in headers of JSON and Python."""
    places = [*re.finditer(rb"\d+", content[:_EDGE])]
    if not places:
        return _resized(content, generator)
    place = generator.choice(places)
    value = generator.choice((*_EXTREMES, -1, 10**30, "1e9", "true", "[]"))
    return content[: place.start()] + str(value).encode() + content[place.end() :]


_CHANGES = (_flipped, _flipped, _cut, _spliced, _resized, _resized, _renumbered)


def measured(stored: StoredFormat, path: Path) -> tuple[dict[str, Any], Any]:
    """Measure a file; return what that came to, and the rows where it gave a number."""
    options = stored.options(np.empty((1, RAW_WIDTH), stored.dtype))
    try:
        source = rs.open_source(stored.address(path), **options)
        rs.measure(source, memory_limit=MEMORY_LIMIT, workers=1)
        return {"outcome": "measured"}, source.read(0, source.shape[0])
    except rs.RankMeError as error:
        text = str(error)
        if not text.isprintable():
            return {"outcome": "several lines", "error": text[:300]}, None
        return {"outcome": "refused", "error": type(error).__name__}, None


def compared(stored: StoredFormat, path: Path, rows: Any) -> dict[str, Any]:
    """Return whether the format's own reader accepts a file that we measured, and reads the same numbers."""
    try:
        own = np.asarray(stored.read(path))
    except BaseException as error:  # noqa: BLE001 - whatever a reader of others raises
        return {"outcome": "its reader refuses", "error": f"{type(error).__name__}: {error}"[:300]}
    native = own.astype(own.dtype.newbyteorder("="), copy=False)
    is_same = own.ndim >= 2 and native.reshape(-1, own.shape[-1]).shape == rows.shape
    return {"outcome": "right" if is_same and native.tobytes() == rows.tobytes() else "wrong"}


def judged(stored: StoredFormat, path: Path) -> dict[str, Any]:
    """Judge one file; one that takes too long ends the process by a signal."""
    processes.forget_peak()
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    rows = None
    try:
        result, rows = measured(stored, path)
    except Exception as error:  # noqa: BLE001 - what this benchmark looks for
        result = {"outcome": "defect", "error": f"{type(error).__name__}: {error}"[:300]}
    signal.setitimer(signal.ITIMER_REAL, 0)
    result |= {"seconds": round(time.monotonic() - began, 3), "peak_bytes": processes.peak_bytes()}
    print(json.dumps(result), flush=True)
    if rows is not None:
        result |= compared(stored, path, rows)
    if result["peak_bytes"] > MEMORY_LIMIT + MEMORY_SLACK:
        result["outcome"] = "memory"
    return result


def work(folder: Path, names: list[str], first: int, stop: int) -> None:
    """Judge cases of some formats in turn; the seed of each is its number among those of its format."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    sound = {name: template(folder, name).read_bytes() for name in names}
    for place in range(first, stop):
        number, name = place // len(names), names[place % len(names)]
        stored = STORED_FORMATS[name]
        path = folder / f"case-{place}{stored.ending}"
        path.write_bytes(changed(sound[name], random.Random(number)))
        print(json.dumps({"place": place, "format": name, "number": number}), flush=True)
        print(json.dumps(judged(stored, path)), flush=True)
        path.unlink()


if __name__ == "__main__":
    work(Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
