"""The command in a process of its own, as people run it; its modules are imported once for many of them."""

from __future__ import annotations

import atexit
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

RANKME = [sys.executable, "-m", "rankme_stream"]
TIMEOUT_S = 120


@cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(TIMEOUT_S)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.command_server", str(theirs.fileno())],
        pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    theirs.close()

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours


def rankme(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    words = [str(argument) for argument in arguments]
    request = json.dumps([str(cwd or Path.cwd()), dict(os.environ), words]).encode()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        socket.send_fds(_server(), [request], [out.fileno(), err.fileno()])
        code = int(_server().recv(16))
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, code, out.read().decode(), err.read().decode())


def refused(code: int, pattern: str, *arguments: object) -> str:
    """Run, and expect that exit code and exactly one line of error."""
    done = rankme(*arguments)
    assert done.returncode == code, done.stderr
    assert re.fullmatch(r"rankme: error: [^\n]+\n", done.stderr), done.stderr
    assert re.search(pattern, done.stderr), done.stderr
    assert done.stdout == ""
    return done.stderr
