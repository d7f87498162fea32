"""Runs the command as often as it is asked to, each time in a process of its own, and imports its modules once.

``python -m tests.command_server FD`` reads requests from a socket: working directory, environment and arguments, and
the files that are stdout and stderr. It forks for each and answers with the exit code.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from importlib import import_module

from rankme_stream import __main__ as command

FOR_ALL = ("cli.commands", "measuring.batch", "measuring.saved_results", "results.compare")  # modules that they import
LONGEST = 2**20  # bytes of a request


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    for module in FOR_ALL:
        import_module(f"rankme_stream.{module}")
    while True:
        text, files, _, _ = socket.recv_fds(requests, LONGEST, 2)
        if not text:
            return
        process = os.fork()
        if process == 0:
            break
        for file in files:
            os.close(file)
        _, status = os.waitpid(process, 0)
        requests.send(str(os.waitstatus_to_exitcode(status)).encode())
    requests.close()
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
        os.close(file)
    folder, environment, arguments = json.loads(text)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["rankme", *arguments]
    command.main()


if __name__ == "__main__":
    main()
