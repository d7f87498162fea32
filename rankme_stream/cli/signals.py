"""Handling of SIGINT and SIGTERM, which end a command and are never lost."""

from __future__ import annotations

import signal
from typing import NoReturn


class Signal(BaseException):
    """SIGINT or SIGTERM; not a KeyboardInterrupt, which click would replace by an exception of its own."""

    def __init__(self, number: int) -> None:
        self.number = number


class Signals:
    """Raises ``Signal`` when a signal arrives, and again from ``check``, since exceptions in destructors are lost."""

    def __init__(self) -> None:
        self._arrived: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._raise)

    def _raise(self, number: int, frame: object) -> NoReturn:
        self._arrived = number
        raise Signal(number)

    def check(self) -> None:
        """Raise ``Signal`` again if a destructor or callback swallowed it."""
        if self._arrived is not None:
            raise Signal(self._arrived)
