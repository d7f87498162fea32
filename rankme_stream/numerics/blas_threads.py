"""Hold BLAS to one thread during a pass; its results depend on the thread count.

The thread count is a setting of the process, or of each thread where OpenBLAS was built on OpenMP. When two passes
overlap, the first to end must not restore the setting under the other, and the last must.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

from rankme_stream.errors import ArithmeticCheckError


class _Hold:
    """Number of contexts that hold BLAS, and the thread count of each library before the first of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.libraries: Sequence[Any] = ()
        self.before: dict[str, tuple[Any, int]] = {}


_HOLD = _Hold()


def _libraries() -> Sequence[Any]:
    """Return the BLAS libraries that are loaded; the search takes milliseconds."""
    found: Sequence[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return found


def _is_of_thread(library: Any) -> bool:
    """Return whether the setting belongs to the calling thread; that of BLIS and MKL belongs to the process."""
    return bool(library.internal_api == "openblas" and library.threading_layer == "openmp")


def _set(library: Any, count: int) -> None:
    """Set the thread count of a library, whichever thread set it before."""
    _let_go(library)
    library.set_num_threads(count)


def _let_go(library: Any) -> None:
    """Allow any thread to set the count of a library: threadpoolctl 3.8 ignores all but the thread that set it."""
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)


def _enter(libraries: Sequence[Any]) -> None:
    with _HOLD.lock:
        _HOLD.count += 1
        _HOLD.libraries = libraries
        for library in libraries:
            if not _is_of_thread(library):
                _HOLD.before.setdefault(library.filepath, (library, library.num_threads))
                _set(library, 1)  # even if held already: other code may have set it meanwhile


def _leave() -> None:
    with _HOLD.lock:
        _HOLD.count -= 1
        if _HOLD.count == 0:
            for library, count in _HOLD.before.values():
                _set(library, count)
                _let_go(library)
            _HOLD.before.clear()


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold BLAS to one thread: in this thread, in those of ``threads``, and in the settings of the process."""
    libraries = _libraries()
    own = [(library, library.num_threads) for library in libraries if _is_of_thread(library)]
    _enter(libraries)
    try:
        for library, _ in own:
            library.set_num_threads(1)
        yield
    finally:
        for library, count in own:
            library.set_num_threads(count)
        _leave()


def check_one_thread(start: int, stop: int) -> None:
    """Refuse what was computed of rows [start, stop) if other code changed the setting; asking takes a microsecond.

    Raises
    ------
    ArithmeticCheckError
        If BLAS, which is held in this thread, has another number of threads.
    """
    for library in _HOLD.libraries if _HOLD.count else ():
        if (count := library.num_threads) != 1:
            raise ArithmeticCheckError(
                f"BLAS ({library.internal_api} {library.version}) was set to {count} threads by other code in this "
                f"process while rows {start:,}-{stop - 1:,} were computed, which changes bits: run the pass in a "
                "process of its own"
            )


def threads(count: int, name: str) -> ThreadPoolExecutor:
    """Return a pool of ``count`` threads, in which BLAS is held to one thread where it is in the caller."""
    own = [library for library in _HOLD.libraries if _is_of_thread(library)] if _HOLD.count else []

    def hold() -> None:
        for library in own:
            library.set_num_threads(1)

    return ThreadPoolExecutor(count, thread_name_prefix=name, initializer=hold)
