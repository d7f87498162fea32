"""SIGINT and SIGTERM, which end a command and are never lost."""

from __future__ import annotations

import signal
from typing import NoReturn


class Signal(BaseException):
    """SIGINT or SIGTERM arrived; no KeyboardInterrupt, which click would turn into its own."""

    def __init__(self, number: int) -> None:
        self.number = number


class Signals:
    """Raises ``Signal`` when one arrives, and again from ``check``: what a destructor raises is lost."""

    def __init__(self) -> None:
        self._arrived: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._raise)

    def _raise(self, number: int, frame: object) -> NoReturn:
        self._arrived = number
        raise Signal(number)

    def check(self) -> None:
        """Raise for a signal that was swallowed by a destructor or a callback."""
        if self._arrived is not None:
            raise Signal(self._arrived)
