"""What is stored under the keys of a zarr store: files of a folder, or values that a store returns."""

from __future__ import annotations

import lzma
import os
import struct
import zlib
from asyncio import Semaphore, gather
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from operator import itemgetter
from typing import Protocol

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from rankme_stream.errors import RankMeError, SourcePermissionError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.regular_file import open_sized
from rankme_stream.sources.stores.remote_faults import ForeignError, in_one_line
from rankme_stream.sources.zarr.auditing_store import AuditingStore
from rankme_stream.sources.zarr.codecs.chunk_decoder import ChunkDecoder
from rankme_stream.sources.zarr.grids.shard_index import ShardIndex

READ_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    OSError,
    EOFError,
    AttributeError,
    OverflowError,
    AssertionError,
    SystemError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)  # of files, stores, checks and codecs
Ranges = Sequence[tuple[int, int]]  # offset and length of parts of a value
_REQUEST_BYTES = 2**16  # that a request takes beside the bytes that it returns


class StoredValue(Protocol):
    """Bytes under one key: a chunk or a shard; ``skipped`` has a bit for each codec that they did not go through."""

    skipped: int

    @property
    def n_bytes(self) -> int | None:
        """Their number; None where parts of a shard alone are fetched."""

    def read_into(self, offset: int, out: Array) -> int:
        """Copy the bytes from ``offset`` on into ``out``, flat uint8; return how many there were, up to its length.

        Where ``n_bytes`` is None, a negative offset counts from the end of the index that was fetched.
        """


Opened = StoredValue | Exception | None  # None where nothing is stored


class StoredValues(Protocol):
    """Values by key.

    ``at_once`` is how many keys are best opened together; ``has_loose_bytes`` says whether parts of a value are read
    without the rest of it.
    """

    at_once: int
    has_loose_bytes: bool

    def open(self, keys: Sequence[str], stack: ExitStack) -> list[Opened]:
        """Return the value of each key, or why it cannot be read; the stack closes what was opened."""

    def fetch(self, wanted: Sequence[tuple[StoredValue, Ranges]]) -> None:
        """Fetch parts of shards that were opened."""

    def memory(self, n_chunks: int, longest: int) -> int:
        """Return the peak bytes of holding the stored bytes of so many chunks, of at most ``longest`` each."""

    def check_length(self, key: str, value: StoredValue) -> None:
        """Raise StorageError if a value that does not decode has not the length that its server states."""

    def read_rows(self, decoder: ChunkDecoder, start: int, stop: int, out: Array) -> bool:
        """Read rows many chunks at a time; return False where they have to be read one by one.

        Of a chunk that is missing or does not decode, the one by one says what is to be said.
        """


class _File:
    """File that is open; its size is that when it was opened."""

    skipped = 0

    def __init__(self, descriptor: int, n_bytes: int) -> None:
        self._descriptor, self.n_bytes = descriptor, n_bytes

    def read_into(self, offset: int, out: Array) -> int:
        n_done = os.preadv(self._descriptor, [out.data], offset)
        while n_done < len(out) and (n_read := os.preadv(self._descriptor, [out[n_done:].data], offset + n_done)):
            n_done += n_read
        return n_done


class FolderValues:
    """Files of a folder, read without zarr's event loop."""

    at_once = 1
    has_loose_bytes = True

    def __init__(self, root: str, uri: str) -> None:
        self._folder, self._uri = os.path.join(root, ""), uri

    def open(self, keys: Sequence[str], stack: ExitStack) -> list[Opened]:
        """Open the files of some keys."""
        return [self._open(key, stack) for key in keys]

    def _open(self, key: str, stack: ExitStack) -> Opened:
        try:
            descriptor, n_bytes = open_sized(self._folder + key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            return SourcePermissionError(f"{key} of {self._uri} may not be read: check its permissions")
        except OSError as error:
            return error
        stack.callback(os.close, descriptor)
        return _File(descriptor, n_bytes)

    def fetch(self, wanted: Sequence[tuple[StoredValue, Ranges]]) -> None:
        """Do nothing: parts of a file are read where it lies."""

    def memory(self, n_chunks: int, longest: int) -> int:
        """Return 0: nothing is held beside the chunk that is decoded."""
        return 0

    def check_length(self, key: str, value: StoredValue) -> None:
        """Do nothing: a file has the length that it has."""

    def read_rows(self, decoder: ChunkDecoder, start: int, stop: int, out: Array) -> bool:
        """Return False: each chunk is a file."""
        return False


class _Content:
    """Whole value in memory."""

    skipped = 0

    def __init__(self, content: Array) -> None:
        self._content = content

    @property
    def n_bytes(self) -> int:
        return len(self._content)

    def read_into(self, offset: int, out: Array) -> int:
        found = self._content[offset:][: len(out)]
        out[: len(found)] = found
        return len(found)


class _Parts:
    """Index and parts of a shard in memory, by ascending offsets; ``failure`` is why others could not be fetched."""

    n_bytes, skipped = None, 0

    def __init__(self, key: str, index: Array) -> None:
        self.key, self._index = key, index
        self.parts: list[tuple[int, Array]] | None = None  # until they are fetched, the index is what is read
        self.failure: Exception | None = None

    def read_into(self, offset: int, out: Array) -> int:
        if self.failure is not None:
            raise self.failure
        if self.parts is None:
            return _Content(self._index).read_into(offset, out)
        start, content = self.parts[bisect_right(self.parts, offset, key=itemgetter(0)) - 1]
        return _Content(content).read_into(offset - start, out)


class StoreValues:
    """Values that a store returns, several requests at a time; of a shard, its index and the chunks that are wanted."""

    has_loose_bytes = False

    def __init__(self, store: AuditingStore, index: ShardIndex | None) -> None:
        self._store, self._index = store, index
        self.at_once = int(zarr.config.get("async.concurrency") or 10)

    def open(self, keys: Sequence[str], stack: ExitStack) -> list[Opened]:
        """Request the values of some keys; of shards, their indices."""
        part: ByteRequest | None = None
        if self._index is not None:
            n_bytes = self._index.n_bytes
            part = RangeByteRequest(0, n_bytes) if self._index.is_at_start else SuffixByteRequest(n_bytes)
        found = sync(self._request([(key, part) for key in keys]))
        opened: list[Opened] = []
        for key, one in zip(keys, found, strict=True):
            if one is None or isinstance(one, Exception):
                opened.append(one)
            else:
                opened.append(_Content(one) if self._index is None else _Parts(key, one))
        return opened

    def fetch(self, wanted: Sequence[tuple[StoredValue, Ranges]]) -> None:
        """Request parts of shards; those that touch in one request."""
        asked = []
        for value, ranges in wanted:
            assert isinstance(value, _Parts)
            value.parts = []
            asked += [(value, value.parts, start, stop) for start, stop in _joined(ranges)]
        found = sync(self._request([(value.key, RangeByteRequest(start, stop)) for value, _, start, stop in asked]))
        for (value, parts, start, stop), one in zip(asked, found, strict=True):
            if isinstance(one, Exception):
                value.failure = one
            elif one is None or len(one) != stop - start:
                value.failure = ValueError(f"shard index points to bytes {start:,}-{stop:,} past the shard's end")
            else:
                parts.append((start, one))

    def memory(self, n_chunks: int, longest: int) -> int:
        """Return the stored bytes twice: a request joins pieces as they arrive."""
        return n_chunks * (2 * longest + _REQUEST_BYTES)

    def check_length(self, key: str, value: StoredValue) -> None:
        """Raise StorageError if a value that does not decode has not the length that its server states."""
        if value.n_bytes is not None:
            self._store.check_length(key, value.n_bytes)

    def read_rows(self, decoder: ChunkDecoder, start: int, stop: int, out: Array) -> bool:
        """Return False: each chunk is an object, or part of one."""
        return False

    async def _request(self, parts: Sequence[tuple[str, ByteRequest | None]]) -> list[Array | Exception | None]:
        at_once = Semaphore(self.at_once)

        async def request(key: str, part: ByteRequest | None) -> Array | None:
            async with at_once:
                value = await self._store.get(key, default_buffer_prototype(), part)
            return None if value is None else np.asarray(value.as_numpy_array()).view(np.uint8)

        answers = await gather(*(request(key, part) for key, part in parts), return_exceptions=True)
        return [_known(one) if isinstance(one, BaseException) else one for one in answers]


def _known(error: BaseException) -> Exception:
    """Return an error that readers know: of a library of its own class, one that has its name and text."""
    if isinstance(error, (*READ_ERRORS, RankMeError, MemoryError)):
        return error
    return ForeignError(in_one_line(error))


def _joined(ranges: Ranges) -> list[tuple[int, int]]:
    """Return first and last offset of parts, ascending, with those that touch or overlap as one."""
    joined: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        if joined and offset <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], offset + length)
        else:
            joined.append((offset, offset + length))
    return joined
