"""The command, run as people run it."""

from __future__ import annotations

import re
import subprocess
import sys

RANKME = [sys.executable, "-m", "rankme_stream"]


def rankme(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RANKME, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


def refused(code: int, pattern: str, *arguments: object) -> str:
    """Run, and expect that exit code and exactly one line of error."""
    done = rankme(*arguments)
    assert done.returncode == code, done.stderr
    assert re.fullmatch(r"rankme: error: [^\n]+\n", done.stderr), done.stderr
    assert re.search(pattern, done.stderr), done.stderr
    assert done.stdout == ""
    return done.stderr
