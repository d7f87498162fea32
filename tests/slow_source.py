"""A source whose reads take a while, so that something can happen during a pass."""

from __future__ import annotations

import time

from rankme_stream.sources import ZarrSource


class Slow(ZarrSource):
    """Rows whose reads take 20 ms."""

    def __init__(self, source: object) -> None:
        super().__init__(source)
        self._uri = source

    def reopen(self):
        return _Reopened(type(self), self._uri)

    def read(self, start, stop, out=None):
        time.sleep(0.02)
        return super().read(start, stop, out)


class _Reopened:
    """Opens a source of a class of its own on a worker."""

    def __init__(self, kind: type, uri: object) -> None:
        self.kind, self.uri = kind, uri

    def __reduce__(self):
        return self.kind, (self.uri,)
