"""Several sources as one: their rows one part after another."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, overload

import numpy as np

from rankme_stream.errors import SourceFormatError, UsageError, counted
from rankme_stream.numerics.decoding import Decoding
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, StoredType
from rankme_stream.sources.source import Source
from rankme_stream.sources.storage import Storage, is_remote, own_storage, storage_of
from rankme_stream.sources.stored_sizes import StoredSizes, stored_sizes

_ASKED_AT_ONCE = 32  # parts on servers, for their fingerprints
_ODD_SHARE = 0.1  # of the parts: with more, lengths just vary
_NAMED_ODD = 5
_NUMBER = re.compile(r"(\d+)")
_OF = "-of-"
_LAST_NAME = re.compile(r"(?:[^/:]|:(?!:))*\Z")  # behind the last folder, or the "::" of a store


class Part(NamedTuple):
    """Part of a dump: its name, and rows [start, stop) of the dump that it holds."""

    name: str
    start: int
    stop: int


def joined_name(names: Sequence[str]) -> str:
    """Return a name for several parts together, for messages and results."""
    if len(names) <= 2:
        return " + ".join(names)
    return f"{names[0]} ... {names[-1]} ({len(names):,} arrays)"


class ConcatSource:
    """Rows of several sources, one after another.

    Parameters
    ----------
    parts
        Sources of one width, number type and decoding, in the order of their rows; on the host.
    uri
        Name in errors and records; None makes one of the names of the parts.
    remarks
        What is odd about the parts, in sentences for people.

    Attributes
    ----------
    parts
        Name and rows of each part: what of its URI tells it from the others.
    remarks
        Those given, and parts of another length than nearly all others.

    Raises
    ------
    UsageError
        If there is no part, or a part is given twice.
    SourceFormatError
        If a part has another width, meaning or order of columns than most, or is on a card; the message names it.
    """

    def __init__(self, parts: Iterable[Source], uri: str | None = None, remarks: Sequence[str] = ()) -> None:
        self._sources: list[Source] = []
        for part in parts:
            self._sources += part._sources if isinstance(part, ConcatSource) else [part]
        if not self._sources:
            raise UsageError("no array was given: name one at least")
        names = _names([source.uri for source in self._sources])
        self.uri = joined_name([source.uri for source in self._sources]) if uri is None else uri
        _refuse_repeated(self._sources)
        first = _usual(self._sources)
        for source in self._sources:
            _check_alike(first, source)
        self._starts = [0, *accumulate(source.shape[0] for source in self._sources)]
        self.shape: tuple[int, int] = (self._starts[-1], first.shape[1])
        self.stored: StoredType = first.stored
        self.parts = [Part(name, *rows) for name, rows in zip(names, pairwise(self._starts), strict=True)]
        self.remarks = [*remarks, *_odd_lengths(self.parts)]
        checks = sorted({source.integrity for source in self._sources})
        self.integrity: str = "none" if "none" in checks else " and ".join(checks)

    @property
    def chunks_missing(self) -> int:
        """Number of chunks of all parts known so far to be unwritten."""
        return sum(source.chunks_missing for source in self._sources)

    @property
    def first_missing(self) -> str | None:
        """Key of the first such chunk, and its part."""
        return next((f"{one.first_missing} of {one.uri}" for one in self._sources if one.chunks_missing), None)

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return the row offsets strictly inside ``(start, stop)`` where a part begins, or one may read from."""
        pieces = []
        for source, first, low, high in self._pieces(start, stop):
            found = source.bounds(low, high)
            if isinstance(found, range):
                found = range(found.start + first, found.stop + first, found.step)
            else:
                found = _ShiftedBounds(found, first)
            pieces.append((low + first, high + first, found))
        return JoinedBounds(pieces)

    def read(self, start: int, stop: int, out: Any = None) -> Any:
        """Return rows ``[start, stop)``: what the part returns that holds them all, else in ``out`` or new memory.

        Raises
        ------
        SourceError, StorageError
            As the parts do; messages name the part and its own rows.
        """
        pieces = list(self._pieces(start, stop))
        if len(pieces) == 1:
            source, _, low, high = pieces[0]
            return source.read(low, high, out)
        if out is None:
            out = np.empty((stop - start, self.shape[1]), self.stored.dtype)
        for source, first, low, high in pieces:
            target: Array = out[low + first - start : high + first - start]
            found = source.read(low, high, target)
            if found is not target:
                target[...] = found
        return out

    def read_memory(self, n_rows: int) -> int:
        """Return an upper estimate of the peak bytes of reading ``n_rows`` rows from a bound, result included."""
        row_bytes = self.shape[1] * self.stored.dtype.itemsize
        wanted = ((source, min(n_rows, source.shape[0])) for source in self._sources)
        return n_rows * row_bytes + max(0, *(source.read_memory(n) - n * row_bytes for source, n in wanted))

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges within ``[start, stop)`` known so far to be unwritten, ascending, merged."""
        merged: list[tuple[int, int]] = []
        for source, first, low, high in self._pieces(start, stop):
            for gap_start, gap_stop in source.missing(low, high):
                joins = bool(merged) and merged[-1][1] == gap_start + first
                merged.append((merged.pop()[0] if joins else gap_start + first, gap_stop + first))
        return merged

    @property
    def tail_start(self) -> int:
        """First row of the last part that is written again when rows or parts are added behind it."""
        return self._starts[-2] + self._sources[-1].tail_start

    def reopen(self) -> list[Any] | None:
        """Return the arguments that open the parts in another process; None if one of them lives in this one."""
        arguments = [source.reopen() for source in self._sources]
        return None if any(argument is None for argument in arguments) else arguments

    def identity(self) -> dict[str, object]:
        """Return the properties of the first part: parts added later may have other codecs, and nothing else."""
        return self._sources[0].identity()

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash of those of the parts that hold rows ``[start, stop)``, and of which of their rows these are.

        So a part that changed, grew, came or went changes it, unless all that is new lies behind these rows.
        """
        pieces, digest = list(self._pieces(start, stop)), blake2b(digest_size=16)

        def hash_of(piece: tuple[Source, int, int, int]) -> str:
            source, _, low, high = piece
            return f"{low} {high} {source.fingerprint(low, high)}\n"

        if len(pieces) > 1 and is_remote(self._sources[0]):
            with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
                found = list(pool.map(hash_of, pieces))
        else:
            found = [hash_of(piece) for piece in pieces]
        digest.update("".join(found).encode())
        return digest.hexdigest()

    def stored_sizes(self, start: int, stop: int) -> list[StoredSizes]:
        """Return the stored sizes of the chunks of rows ``[start, stop)``, of each part apart."""
        return [
            StoredSizes(sizes.edges + first, sizes.n_bytes)
            for source, first, low, high in self._pieces(start, stop)
            for sizes in stored_sizes(source, low, high)
        ]

    def storage(self) -> Storage:
        """Return how many parts there are, of how many rows each, how the first is stored, and the bytes of all."""
        first, others = storage_of(self._sources[0]), [own_storage(source) for source in self._sources[1:]]
        sizes = sorted(source.shape[0] for source in self._sources)
        rows = f"{sizes[0]:,} rows" if sizes[0] == sizes[-1] else (
            f"{sizes[0]:,} to {sizes[-1]:,} rows, half of them at most {sizes[len(sizes) // 2]:,}"
        )  # fmt: skip
        facts = [("parts", f"{counted(len(sizes), 'array')} of {rows}")]
        facts += [(f"{label} of the first", words) for label, words in first.facts]
        n_bytes = _total([first.n_bytes, *(one.n_bytes for one in others)])
        n_requests = _total([first.n_requests, *(one.n_requests for one in others)])
        return Storage(first.format, tuple(facts), n_bytes, n_requests, first.where)

    def part_of(self, row: int) -> int:
        """Return the number of the part that holds a row."""
        return bisect_right(self._starts, row) - 1

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Source, int, int, int]]:
        """Yield each part that holds some of the rows ``[start, stop)``, its first row, and which of its own they are.

        Yields one part for an empty range.
        """
        number = min(self.part_of(start), len(self._sources) - 1)
        while True:
            first, end = self._starts[number], self._starts[number + 1]
            yield self._sources[number], first, start - first, min(stop, end) - first
            if stop <= end:
                return
            start, number = end, number + 1


def _total(numbers: Sequence[int | None]) -> int | None:
    """Return a sum; None where a number is not known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


class _ShiftedBounds(Sequence[int]):
    """Bounds of a part in rows of the whole, worked out when asked for: there may be many."""

    def __init__(self, bounds: Sequence[int], by: int) -> None:
        self._bounds, self._by = bounds, by
        self.step = getattr(bounds, "step", None)

    def __len__(self) -> int:
        return len(self._bounds)

    def __getitem__(self, index: Any) -> Any:
        return self._bounds[index] + self._by


class JoinedBounds(Sequence[int]):
    """Bounds of parts one after another, and the rows where parts meet, without a list of them all.

    Parameters
    ----------
    pieces
        First and last row of each part, [start, stop), and its own bounds; all in rows of the whole.
    """

    def __init__(self, pieces: Sequence[tuple[int, int, Sequence[int]]]) -> None:
        self.pieces = pieces
        self._ends = list(accumulate(len(bounds) + 1 for _, _, bounds in pieces))  # with where the next part begins

    def __len__(self) -> int:
        """Return the number of bounds."""
        return self._ends[-1] - 1

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        """Return a bound, or a list of several."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        _, stop, bounds = self.pieces[number]
        offset = index - (self._ends[number - 1] if number else 0)
        return bounds[offset] if offset < len(bounds) else stop


def row_place(source: Source, row: int) -> str:
    """Return a row of a source in words, for messages: its number there, and its place in the array or part."""
    if not isinstance(source, ConcatSource):
        return f"{source.uri}: row {row:,}{_along_axes(source, row)}"
    part = source.parts[source.part_of(row)]
    return f"{source.uri}: row {row:,} (row {row - part.start:,} of {part.name})"


def _along_axes(source: Source, row: int) -> str:
    """Return the place of a row along the axes of its array, where several axes make up the rows; otherwise ""."""
    find = getattr(source, "coordinates", None)
    places = [] if find is None else find(row, row + 1)[0].tolist()
    return f" ({', '.join(f'{place:,}' for place in places)} along the other axes)" if len(places) > 1 else ""


def describe_parts(source: Source) -> dict[str, Any]:
    """Return name and number of rows of each part, and remarks, for records; nothing for a source without parts."""
    if not isinstance(source, ConcatSource):
        return {}
    parts = [{"name": part.name, "n_rows": part.stop - part.start} for part in source.parts]
    return {"parts": parts} | ({"remarks": source.remarks} if source.remarks else {})


def absent_numbers(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the first and last of each run of numbers that names of parts skip, where they differ in one number.

    Where ``-of-`` and one number follow it, as in ``part-00000-of-00005``, those behind the last count too.
    """
    keys = [_NUMBER.split(name) for name in names]
    if len({len(key) for key in keys}) != 1:
        return []
    columns = list(zip(*keys, strict=True))
    varying = [place for place, texts in enumerate(columns) if len({*texts}) > 1]
    if len(varying) != 1 or not all(text.isdecimal() for text in columns[varying[0]]):
        return []
    numbers = sorted(int(text) for text in columns[varying[0]])
    following = [texts[0] for texts in columns[varying[0] + 1 :][:2]]
    if following[:1] == [_OF] and numbers[0] in (0, 1):
        numbers.append(max(numbers[-1] + 1, int(following[1]) + numbers[0]))
    return [(before + 1, after - 1) for before, after in pairwise(numbers) if after - before > 1]


def _names(uris: Sequence[str]) -> list[str]:
    """Return what of each URI tells it from the others, behind the folders that all share."""
    common = os.path.commonprefix(list(uris))  # noqa: RUF071 - the beginning that all share, cut below
    last = _LAST_NAME.search(common)
    names = [uri[0 if last is None else last.start() :].lstrip(":") for uri in uris]
    again = {name for name, count in Counter(names).items() if count > 1}  # arrays in memory bear one name
    return [f"{name} {number}" if name in again else name for number, name in enumerate(names)]


def _refuse_repeated(sources: Sequence[Source]) -> None:
    seen: set[str] = set()
    for source in sources:
        place = source.reopen()
        if isinstance(place, str):
            place = place if "://" in place else os.path.realpath(place)
            if place in seen:
                raise UsageError(f"{source.uri} is given twice: name every part once")
            seen.add(place)


def _usual(sources: Sequence[Source]) -> Source:
    """Return the first source of the width and type that most have."""
    kinds = Counter((source.shape[1], source.stored.name) for source in sources)
    usual = max(kinds, key=lambda kind: kinds[kind])
    return next(source for source in sources if (source.shape[1], source.stored.name) == usual)


def _odd_lengths(parts: Sequence[Part]) -> list[str]:
    """Return which parts before the last differ in length where nearly all have one."""
    lengths = Counter(part.stop - part.start for part in parts[:-1])
    usual, n_usual = lengths.most_common(1)[0] if lengths else (0, 0)
    odd = [part for part in parts[:-1] if part.stop - part.start != usual]
    if not odd or len(odd) > _ODD_SHARE * n_usual:
        return []
    named = ", ".join(f"{part.name} ({part.stop - part.start:,})" for part in odd[:_NAMED_ODD])
    more = f" and {len(odd) - _NAMED_ODD:,} more" if len(odd) > _NAMED_ODD else ""
    return [f"Of {len(parts):,} arrays nearly all have {usual:,} rows, but not {named}{more}."]


def _check_alike(first: Source, part: Source) -> None:
    """Refuse a part that does not belong to the same dump as the first."""
    if getattr(part, "device", HOST) is not HOST:
        raise SourceFormatError(f"{part.uri} is on a card, and parts of a dump are joined on the host: move it there")
    if part.shape[1] != first.shape[1]:
        raise SourceFormatError(
            f"{part.uri} has {part.shape[1]:,} features, and {first.uri} has {first.shape[1]:,}: all parts of a dump "
            "have one width; leave it out"
        )
    if other := _other_names(first, part):
        raise SourceFormatError(
            f"{part.uri} has {other[1]!r} for a feature where {first.uri} has {other[0]!r}: columns of all parts of a "
            "dump come in one order; write them in it"
        )
    is_equal = part.stored == first.stored and part.stored.note == first.stored.note  # quick, for 10^5 parts
    if not is_equal and (mine := _meaning(first.stored)) != (theirs := _meaning(part.stored)):
        differing = [name for name in theirs if mine[name] != theirs[name]]
        here = ", ".join(f"{name} {theirs[name]}" for name in differing)
        there = ", ".join(f"{name} {mine[name]}" for name in differing)
        raise SourceFormatError(
            f"{part.uri} holds numbers of {here}, and {first.uri} of {there}: numbers of all parts of a dump mean the "
            "same; convert it, or leave it out"
        )


def _other_names(first: Source, part: Source) -> tuple[str, str] | None:
    """Return the first names of a feature that differ between parts of one width; None where none do."""
    names = zip(*(getattr(one, "feature_names", ()) for one in (first, part)), strict=False)
    return next((pair for pair in names if pair[0] != pair[1]), None)


def _meaning(stored: StoredType) -> dict[str, Any]:
    """Return how stored numbers become values, by name."""
    decoding = asdict(stored.decoding or Decoding())
    del decoding["source"]
    return {"type": stored.name, "decoding": stored.note or "none"} | decoding
