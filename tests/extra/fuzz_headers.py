"""Fuzzing, guided by coverage, of the headers that we parse ourselves; not a part of ``make test``.

``python -m tests.extra.fuzz_headers [SECONDS]`` needs atheris (``pip install atheris``) and runs for ten minutes, or so
many seconds. Each input is a byte that picks a format, and a file: it must be read, or refused in one line. The first
input that is neither ends the run, and libFuzzer writes it to a file ``crash-...`` in the working folder.
"""

from __future__ import annotations

import sys
import tempfile
import zlib
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["rankme_stream.sources.dense"]):
    from rankme_stream.sources.dense import (  # noqa: F401 - imported here to be instrumented
        faiss_flat,
        inert_pickle,
        npz,
        raw_binary,
        safetensors,
        torch_file,
        vector_files,
    )
    from tests.fuzzed_headers import ENDINGS, SOUND, read_any

_SECONDS = 600
_LONGEST_INPUT = 10_000  # bytes
_SLOWEST_S = 10  # of an input
_MEMORY_MIB = 1_000


def one_input(content: bytes) -> None:
    """Read a file of the format that the first byte picks; ``PK`` files also with their checksums put right."""
    if not content:
        return
    ending, file = ENDINGS[content[0] % len(ENDINGS)], content[1:]
    read_any(ending, file)
    if ending == ".npz":
        read_any(ending, with_right_checksums(file))


def with_right_checksums(file: bytes) -> bytes:
    """Return a zip file whose directory has the CRC of what stands behind each stored member's own header."""
    held = bytearray(file)
    at = held.find(b"PK\x01\x02")
    while 0 <= at <= len(held) - 46:
        start = int.from_bytes(held[at + 42 : at + 46], "little")
        n_bytes = int.from_bytes(held[at + 20 : at + 24], "little")
        names = sum(int.from_bytes(held[start + place : start + place + 2], "little") for place in (26, 28))
        content = held[start + 30 + names : start + 30 + names + n_bytes]
        held[at + 16 : at + 20] = zlib.crc32(content).to_bytes(4, "little")
        at = held.find(b"PK\x01\x02", at + 4)
    return bytes(held)


def main() -> None:
    """Fuzz for the seconds given."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else _SECONDS
    with tempfile.TemporaryDirectory() as corpus:
        for number, (ending, sound) in enumerate(SOUND):
            (Path(corpus) / f"sound-{number}").write_bytes(bytes([ENDINGS.index(ending)]) + sound)
        limits = {
            "max_total_time": seconds, "max_len": _LONGEST_INPUT, "timeout": _SLOWEST_S, "rss_limit_mb": _MEMORY_MIB,
        }  # fmt: skip
        atheris.Setup([sys.argv[0], corpus, *(f"-{name}={value}" for name, value in limits.items())], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
