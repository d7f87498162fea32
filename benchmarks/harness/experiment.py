"""One run of a benchmark: its command line, its finished parts, and the files that it writes."""

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
    """The command line of a benchmark, and its results part by part.

    Parameters
    ----------
    name
        Name of the benchmark and of the files that it writes.
    description
        Text of ``--help``.
    minutes
        Time that each size takes, printed before the first part; the command offers these sizes.

    Notes
    -----
    With ``--out`` every finished part is kept in a file there. A run that was killed continues with its next part when
    the same command is given again. Parts of another command are ignored.
    """

    def __init__(self, name: str, description: str | None, minutes: Mapping[Size, str]) -> None:
        self.name = name
        self.parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=description)
        if "quick" in minutes:
            self.parser.add_argument(
                "--quick", action="store_true", help=f"small inputs, as in the tests: {minutes['quick']}"
            )
        if "full" in minutes:
            self.parser.add_argument("--full", action="store_true", help=f"all inputs: {minutes['full']}")
        self.parser.add_argument(
            "--out", type=Path, help=f"folder for {name}.json and {name}.md; a run that is killed goes on from there"
        )
        self._minutes = minutes

    def start(self) -> argparse.Namespace:
        """Parse the command line, print how long the run takes, load the finished parts, and return the arguments."""
        arguments = self.parser.parse_args()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit removes temporary stores and child processes
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
        """Return a part as JSON types; make it unless it was kept."""
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
        """Add command, date and machine to a result, print its page, write both to ``--out``, and return the result."""
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
