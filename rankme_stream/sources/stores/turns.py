"""File systems of fsspec that several threads may not read at once, and the turns that their requests take."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from zarr.abc.store import Store
from zarr.storage import FsspecStore, WrapperStore

_SAFE = {"file", "local", "memory"}
_CACHES = {"simplecache", "filecache", "blockcache", "cached"}
_LOCKS: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def needs_turns(store: Store) -> bool:
    """Return whether requests to a store must not overlap.

    zarr runs the methods of file systems that know no event loop in threads. Many are not made for that: all members of
    a tar file share one position in it, so that a read may return the bytes of another one; the index of a zip file is
    seen half filled, so that what is there is not found; and caches show files that are still being written.
    """
    while isinstance(store, WrapperStore):
        store = store._store
    return isinstance(store, FsspecStore) and not _is_safe(store.fs)


def _is_safe(fs: Any) -> bool:
    if hasattr(fs, "sync_fs"):
        return _is_safe(fs.sync_fs)
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
    if "reference" in protocols:
        return all(_is_safe(target) for target in fs.fss.values())
    if "dir" in protocols:
        return _is_safe(fs.fs)
    return bool(protocols & _SAFE) or (fs.async_impl and not protocols & _CACHES)


def turn() -> asyncio.Lock:
    """Return the lock of the running event loop: file systems share files without telling."""
    return _LOCKS.setdefault(asyncio.get_running_loop(), asyncio.Lock())
