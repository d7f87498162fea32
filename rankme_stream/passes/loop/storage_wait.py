"""Whether reads wait for storage, judged by the first of them."""

from __future__ import annotations

import time

_READS_JUDGED = 16  # first reads of a pass, which show whether reads wait for storage;
_JUDGED_AFTER_S = 1.0  # or as many as end in its first second, where they are long
_WAITING_SHARE = 0.2  # share of that time in which the threads of this process did not compute


class StorageWait:
    """Judges, by the first reads of a pass, whether more threads than cores would read faster.

    The time of the whole process counts: a thread that waits for the interpreter lock does not wait for storage. The
    caller holds a lock.

    Parameters
    ----------
    workers
        Number of threads that compute, or read, at once.

    Attributes
    ----------
    is_judged
        Whether the first reads are over.
    is_long
        Whether they waited for storage; False until they are judged.
    """

    def __init__(self, workers: int) -> None:
        self.is_judged = self.is_long = False
        self._workers, self._reads_left = workers, _READS_JUDGED
        self._began: tuple[float, float] | None = None  # wall and process clocks at the start of the first read

    def begin(self) -> None:
        """Note that a read begins."""
        self._began = self._began or (time.perf_counter(), time.process_time())

    def end(self) -> None:
        """Note that a read ended."""
        if self.is_judged or self._began is None:
            return
        began, computed = self._began
        elapsed = time.perf_counter() - began
        self._reads_left = 0 if elapsed >= _JUDGED_AFTER_S else self._reads_left - 1
        if self._reads_left == 0:
            waiting = elapsed * self._workers - (time.process_time() - computed)
            self.is_judged, self.is_long = True, waiting > _WAITING_SHARE * elapsed * self._workers
