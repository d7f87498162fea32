"""Parts of a benchmark in a process of their own, which ends a part that takes too long and keeps those before it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Setup:
    """What parts of one process share: its module, the arguments of ``serve``, its environment, its processors."""

    module: str
    arguments: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: int = 0  # 0: all


class PartError(Exception):
    """A part gave no result; the text says why."""


class PartServer:
    """A process that makes parts one after another, and keeps in between what they share.

    A part that fails or takes too long ends the process; the next part starts a new one.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._process: subprocess.Popen[str] | None = None

    def ask(self, part: Sequence[str], limit_s: float) -> Any:
        """Return the result of a part.

        Raises
        ------
        PartError
            If it takes longer than the limit, or the process ends.
        """
        process = self._process = self._process or self._started()
        assert process.stdin is not None and process.stdout is not None
        timer, answer = threading.Timer(limit_s, process.kill), ""
        timer.start()
        try:
            with suppress(BrokenPipeError):  # the process has ended
                process.stdin.write(json.dumps(part) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            if answer.endswith("\n"):
                return json.loads(answer)
            process.wait()  # for the last words of a process that failed
            is_late = timer.finished.is_set()
        finally:
            timer.cancel()
        self._errors.seek(0)
        said = [line for line in self._errors.read().splitlines() if line.strip()]
        self.close()
        if is_late:
            raise PartError(f"it took more than {limit_s:.3g} s")
        raise PartError(said[-1] if said else f"its process ended with {process.returncode}")

    def _started(self) -> subprocess.Popen[str]:
        setup = self.setup
        command = [sys.executable, "-m", setup.module, json.dumps(dict(setup.arguments))]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(allowed)[: setup.cores or None])  # the process inherits it
        try:
            return subprocess.Popen(
                command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
                env=os.environ | dict(setup.environment),
            )  # fmt: skip
        finally:
            os.sched_setaffinity(0, allowed)

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.communicate()
        self._errors.close()


def serve(make: Callable[[dict[str, Any]], Callable[..., Any]]) -> None:
    """Answer every line of the standard input, a part and its arguments, with a line of its result.

    ``make`` takes the arguments of the setup and returns the function that makes parts. What they print goes to the
    standard error.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        part = make(json.loads(sys.argv[1]))
        for line in sys.stdin:
            print(json.dumps(part(*json.loads(line))), file=answers, flush=True)
