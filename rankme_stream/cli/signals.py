"""Handling of SIGINT, SIGTERM and SIGHUP, which end a command and are never lost; imports little, to be ready soon."""

from __future__ import annotations

import os
import signal
import time
from typing import NoReturn

from rankme_stream.cli.streams import print_error

_ENDINGS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminal lost"}
_ONE_PRESS_S = 1.0  # a terminal and a launcher may both pass on one press


class Signal(BaseException):
    """A signal that ends the command; not a KeyboardInterrupt, which click would replace by one of its own."""

    def __init__(self, number: int) -> None:
        self.number = number

    def end(self) -> NoReturn:
        """Print one line and end the process at once: worker threads may be in the middle of a long decode."""
        notes = getattr(self, "__notes__", [])
        print_error("; ".join([f"rankme: error: {_ENDINGS[signal.Signals(self.number)]}", *notes]))
        os._exit(128 + self.number)


class Signals:
    """Raises ``Signal`` for the first signal that arrives, and again from ``check``: destructors lose exceptions.

    What is being saved then is saved in peace: later signals are ignored, except for an interrupt by someone who has
    seen the first one have no effect for a second. That ends the process; files are replaced whole, so the last
    checkpoint stays.
    """

    def __init__(self) -> None:
        self._arrived: int | None = None
        self._arrived_s = 0.0
        self._is_over = False
        for number in _ENDINGS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._raise)

    def _raise(self, number: int, frame: object) -> None:
        if self._is_over:
            return
        if self._arrived is None:
            self._arrived, self._arrived_s = number, time.monotonic()
            raise Signal(number)
        if number == signal.SIGINT and time.monotonic() - self._arrived_s > _ONE_PRESS_S:
            again = Signal(number)
            again.add_note("not waiting for the last checkpoint: the one before it is kept")
            again.end()

    def check(self) -> None:
        """Raise ``Signal`` again if a destructor or callback swallowed it."""
        if self._arrived is not None:
            raise Signal(self._arrived)

    def ignore(self) -> None:
        """Ignore every later signal: the command is over, and its exit code is known."""
        self._is_over = True
