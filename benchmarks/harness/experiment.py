"""One run of a benchmark: what was asked for, the parts that are finished, and the files it ends in."""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

from rankme_stream.numerics import machine

Size = Literal["quick", "default", "full"]


class Experiment:
    """A benchmark's command line, and its results as they come.

    Parameters
    ----------
    name
        Of the benchmark, and of the files that it writes.
    description
        Shown by ``--help``.
    minutes
        What each size takes, printed before the first part; the sizes that the command offers.

    Notes
    -----
    With ``--out`` every finished part is kept in a file there, and a run that was killed continues where it was when
    the same command is given again; another command's parts are ignored.
    """

    def __init__(self, name: str, description: str | None, minutes: Mapping[Size, str]) -> None:
        self.name = name
        self.parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=description)
        if "quick" in minutes:
            self.parser.add_argument(
                "--quick", action="store_true", help=f"small: {minutes['quick']}; the test suite's"
            )
        if "full" in minutes:
            self.parser.add_argument("--full", action="store_true", help=f"everything: {minutes['full']}")
        self.parser.add_argument("--out", type=Path, help=f"folder for {name}.json and {name}.md; keeps finished parts")
        self._minutes = minutes

    def start(self) -> argparse.Namespace:
        """Parse the command line, say how long it will take, and load what is finished; return the arguments."""
        arguments = self.parser.parse_args()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary stores and children go too
        self.size: Size = "default"
        for size in ("quick", "full"):
            if getattr(arguments, size, False):
                self.size = size  # type: ignore[assignment]
        self.out: Path | None = arguments.out
        self.command = f"python -m benchmarks {self.name}"
        self.command += "".join(f" {word}" for word in _without_out(sys.argv[1:]))
        print(f"{self.command}: about {self._minutes[self.size]}", flush=True)
        self._state: dict[str, Any] = {"command": self.command, "parts": {}}
        if self.out:
            self.out.mkdir(parents=True, exist_ok=True)
            self._partial = self.out / f"{self.name}.partial.json"
            if self._partial.exists():
                state = json.loads(self._partial.read_text(encoding="utf-8"))
                self._state = state if state["command"] == self.command else self._state
        return arguments

    def part(self, name: str, make: Callable[..., Any], *arguments: Any) -> Any:
        """Return the part of that name as JSON types, made now unless it is kept."""
        parts = self._state["parts"]
        if name not in parts:
            began = time.perf_counter()
            parts[name] = json.loads(json.dumps(make(*arguments)))
            print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
            if self.out:
                new = self._partial.with_suffix(".new")
                new.write_text(json.dumps(self._state), encoding="utf-8")
                new.replace(self._partial)
        return parts[name]

    def finish(self, result: Mapping[str, Any], markdown: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
        """Add command, date and machine to a result, print its tables, write both where asked, and return it."""
        whole = {
            "command": self.command,
            "date": date.today().isoformat(),
            "machine": f"{machine.describe()['cpu']}, {machine.cores()} cores, Python {platform.python_version()}",
            **result,
        }
        text = markdown(whole)
        print(text)
        if self.out:
            (self.out / f"{self.name}.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
            (self.out / f"{self.name}.md").write_text(text + "\n", encoding="utf-8")
            self._partial.unlink(missing_ok=True)
        return whole


def _without_out(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word == "--out":
            skip = not skip
        elif not word.startswith("--out="):
            kept.append(word)
    return kept


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown section with one table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["", f"## {title}", "", *("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)]
