"""Chunks of a dataset read where they lie in its file, many at a time where they are small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np

from rankme_stream.errors import RankMeError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.hdf5.chunk_index import Index, Places
from rankme_stream.sources.stores.stored_file import OpenFile, StoredFile
from rankme_stream.sources.zarr.codecs.chunk_decoder import ChunkDecoder
from rankme_stream.sources.zarr.grids.chunk_grid import ChunkGrid
from rankme_stream.sources.zarr.stored_values import READ_ERRORS, Opened

_SMALL = 2**18  # bytes of chunks that are read many at a time
_TOGETHER, _REMOTE_TOGETHER = 2**20, 2**24  # bytes of them, decoded
_MOST_TOGETHER = 2**12
_SPAN, _REMOTE_SPAN = 2**20, 2**24  # most bytes of one read or request
_GAP, _REMOTE_GAP = 2**13, 2**18  # bytes that are read in vain sooner than that another read is made
_REMOTE_AT_ONCE = 256  # chunks whose stored bytes are held


class StoredChunks:
    """Chunks of an array by their keys; see ``StoredValues`` of the zarr reader.

    Parameters
    ----------
    file
        File that holds them.
    index
        Where they lie, by their numbers along rows and features.
    grid
        Grid of the array.
    """

    def __init__(self, file: StoredFile, index: Index, grid: ChunkGrid) -> None:
        self._file, self._index, self._grid = file, index, grid
        self.at_once = _REMOTE_AT_ONCE if file.is_remote else 64
        self.has_loose_bytes = not file.is_remote
        self._span, self._gap = (_REMOTE_SPAN, _REMOTE_GAP) if file.is_remote else (_SPAN, _GAP)
        self._together = _REMOTE_TOGETHER if file.is_remote else _TOGETHER

    def open(self, keys: Sequence[str], stack: ExitStack) -> list[Opened]:
        """Return the chunks of some keys; of a remote file, request them."""
        file = stack.enter_context(self._file.opened())
        opened: list[Opened] = []
        for key in keys:
            found = self._grid.coordinates(key)
            assert found is not None  # keys of the grid itself
            number = found[0] * self._grid.n_outer_columns + found[1]
            offset, n_bytes, skipped = (int(one[0]) for one in self._index.places(number, number + 1))
            opened.append(None if offset < 0 else _Part(file, offset, n_bytes, skipped, self._index.end))
        if self._file.is_remote:
            self._request(file, [one for one in opened if isinstance(one, _Part)])
        return opened

    def fetch(self, wanted: object) -> None:
        """Do nothing: there are no shards."""

    def memory(self, n_chunks: int, longest: int) -> int:
        """Return what is read and decoded together, and of a remote file the stored bytes of so many chunks."""
        held = n_chunks * (2 * longest + self._gap) if self._file.is_remote else 0
        return held + self._span + 3 * self._together + self._file.read_memory(self._span)

    def check_length(self, key: str, value: object) -> None:
        """Do nothing: a file has the length that it has."""

    def read_rows(self, decoder: ChunkDecoder, start: int, stop: int, out: Array) -> bool:
        """Read rows of small chunks of whole rows many at a time; return False for others, and where one is wrong."""
        grid, per = self._grid, decoder.shape[0]
        can_read = grid.has_whole_rows and decoder.decodes_together and out.flags.c_contiguous
        if not can_read or (decoder.n_bytes > _SMALL and not decoder.is_plain):
            return False
        first, last = start // per, -(-stop // per)
        together = _REMOTE_TOGETHER if decoder.is_plain else self._together
        at_once = max(1, min(_MOST_TOGETHER, together // decoder.n_bytes))
        try:
            with self._file.opened() as file:
                for low in range(first, last, at_once):
                    high = min(last, low + at_once)
                    rows = max(start, low * per), min(stop, high * per)
                    places = self._index.places(low, high)
                    if (places.offsets < 0).any():
                        return False
                    wanted = out[rows[0] - start : rows[1] - start]
                    if decoder.is_plain:
                        self._read_plain(file, places, decoder.n_bytes, rows[0] - low * per, wanted)
                        continue
                    is_whole = rows == (low * per, high * per)
                    held = wanted if is_whole else np.empty(((high - low) * per, out.shape[1]), out.dtype)
                    self._decode(file, places, decoder, held.reshape(high - low, -1))
                    if not is_whole:
                        wanted[...] = held[rows[0] - low * per :][: len(wanted)]
        except RankMeError:
            raise
        except READ_ERRORS:
            return False
        return True

    def _read_plain(self, file: OpenFile, places: Places, n_bytes: int, skipped: int, out: Array) -> None:
        """Read rows of chunks that are the values, from the row ``skipped`` of the first chunk on."""
        if (places.sizes != n_bytes).any():
            raise ValueError("a chunk has another size than its metadata say")
        target = out.reshape(-1).view(np.uint8)
        behind = skipped * (out.shape[1] * out.itemsize)
        if (np.diff(places.offsets) == n_bytes).all():
            file.read_into(target, int(places.offsets[0]) + behind, "its chunks")
            return
        for a, b, first, last in self._spans(places):
            if last - first == (b - a) * n_bytes:
                low, high = max(0, a * n_bytes - behind), min(len(target), b * n_bytes - behind)
                file.read_into(target[low:high], first + low + behind - a * n_bytes, "its chunks")
                continue
            held = np.empty(last - first, np.uint8)
            file.read_into(held, first, "its chunks")
            offsets = places.offsets[a:b] - first
            runs = np.flatnonzero(np.diff(offsets) != n_bytes) + 1
            for c, d in zip([0, *runs.tolist()], [*runs.tolist(), b - a], strict=True):
                at = (a + c) * n_bytes - behind
                some = slice(max(0, at), min(len(target), at + (d - c) * n_bytes))
                begin = int(offsets[c]) + some.start - at
                target[some] = held[begin : begin + some.stop - some.start]

    def _decode(self, file: OpenFile, places: Places, decoder: ChunkDecoder, out: Array) -> None:
        """Read and decode chunks into ``out``, shape ``(chunks, values)``."""
        if places.sizes.max() > decoder.longest:
            raise ValueError("a chunk is longer than it can be stored in")
        encoded: list[Array] = []
        for a, b, first, last in self._spans(places):
            held = np.empty(last - first, np.uint8)
            file.read_into(held, first, "its chunks")
            begins = (places.offsets[a:b] - first).tolist()
            encoded += [held[k : k + n] for k, n in zip(begins, places.sizes[a:b].tolist(), strict=True)]
        kinds = np.unique(places.skipped)
        if len(kinds) == 1:
            decoder.without(int(kinds[0])).decode_all(encoded, out)
            return
        for kind in kinds.tolist():
            chosen = np.flatnonzero(places.skipped == kind)
            some = np.empty((len(chosen), out.shape[1]), out.dtype)
            decoder.without(kind).decode_all([encoded[k] for k in chosen], some)
            out[chosen] = some

    def _spans(self, places: Places) -> Iterator[tuple[int, int, int, int]]:
        """Yield first and last chunk, and first and last byte, of runs of chunks that are best read at once."""
        ends = places.offsets + places.sizes
        gaps = places.offsets[1:] - ends[:-1]
        breaks = np.flatnonzero((gaps < 0) | (gaps > self._gap)) + 1
        for a, b in zip([0, *breaks.tolist()], [*breaks.tolist(), len(ends)], strict=True):
            while a < b:
                last = max(a + 1, int(np.searchsorted(ends[a:b], places.offsets[a] + self._span, "right")) + a)
                yield a, last, int(places.offsets[a]), int(ends[last - 1])
                a = last

    def _request(self, file: OpenFile, parts: Sequence[_Part]) -> None:
        """Request the bytes of chunks of a remote file, those that lie near each other at once."""
        ordered = sorted(parts, key=lambda part: part.offset)
        offsets = np.array([part.offset for part in ordered], np.int64)
        sizes = np.array([part.n_bytes for part in ordered], np.int64)
        for a, b, first, last in self._spans(Places(offsets, sizes, sizes)):
            held = np.empty(min(last, self._index.end) - first, np.uint8)
            file.read_into(held, first, "its chunks")
            for part in ordered[a:b]:
                part.content = held[part.offset - first :][: part.n_bytes]


class _Part:
    """Bytes of a file; ``content`` are those that were requested before, and ``end`` is that of the array."""

    content: Array | None = None

    def __init__(self, file: OpenFile, offset: int, n_bytes: int, skipped: int, end: int) -> None:
        self._file, self.offset, self.n_bytes, self.skipped, self._end = file, offset, n_bytes, skipped, end

    def read_into(self, offset: int, out: Array) -> int:
        """Copy bytes from an offset; those behind the end of the array are zeros."""
        within = max(0, min(len(out), self._end - self.offset - offset))
        out[within:] = 0
        if self.content is None:
            self._file.read_into(out[:within], self.offset + offset, "its chunks")
        else:
            out[:within] = self.content[offset:][:within]
        return len(out)
