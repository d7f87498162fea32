"""CRC-32 of bytes that are read in pieces, in any order: checked as soon as all of them were read."""

from __future__ import annotations

import threading
import zlib
from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import Any

_POLYNOMIAL = 0xEDB88320  # of CRC-32, its bits reversed
_MOST_RUNS = 2**16


class CrcCoverage:
    """Which bytes were read, and their CRC.

    Parameters
    ----------
    n_bytes, expected
        Number of all bytes, and their CRC-32.

    Attributes
    ----------
    is_wrong
        Whether all bytes were read, and their CRC is another.

    Notes
    -----
    Runs of bytes that follow one another are joined, so a pass over the file keeps a few.
    """

    def __init__(self, n_bytes: int, expected: int) -> None:
        self._n_bytes, self._expected, self._lock = n_bytes, expected, threading.Lock()
        self._starts: list[int] = []
        self._runs: dict[int, tuple[int, int]] = {}  # first byte: end and CRC
        self.is_whole = self.is_wrong = False

    def add(self, start: int, content: Any) -> None:
        """Count contiguous bytes, from an offset, as read; those that were read before are not counted again."""
        if self.is_whole:
            return
        held = memoryview(content).cast("B")
        with self._lock:
            gaps = self._gaps(start, start + held.nbytes)
        found = [(low, high, zlib.crc32(held[low - start : high - start])) for low, high in gaps]
        with self._lock:
            for low, high, crc in found:
                for first, end in self._gaps(low, high):  # smaller, where another thread has read some meanwhile
                    is_all = (first, end) == (low, high)
                    self._insert(first, end, crc if is_all else zlib.crc32(held[first - start : end - start]))
            if self._runs.get(0, (0, 0))[0] == self._n_bytes:
                self.is_whole, self.is_wrong = True, self._runs[0][1] != self._expected

    def _gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the ranges of bytes that were not read, of those from an offset to another."""
        gaps = []
        for one in self._starts[max(0, bisect_right(self._starts, start) - 1) : bisect_left(self._starts, stop)]:
            if start < one:
                gaps.append((start, one))
            start = max(start, self._runs[one][0])
        return [*gaps, (start, stop)] if start < stop else gaps

    def _insert(self, start: int, stop: int, crc: int) -> None:
        """Add a range of bytes that were not read before, and join it to those beside it."""
        at = bisect_left(self._starts, start)
        if at < len(self._starts) and self._starts[at] == stop:
            end, after = self._runs.pop(self._starts.pop(at))
            crc, stop = joined_crc(crc, after, end - stop), end
        if at and self._runs[self._starts[at - 1]][0] == start:
            before = self._starts.pop(at - 1)
            crc, start = joined_crc(self._runs.pop(before)[1], crc, stop - start), before
            at -= 1
        if len(self._starts) >= _MOST_RUNS:  # of single rows in no order; a pass begins anew
            self._starts, self._runs, at = [], {}, 0
        self._starts.insert(at, start)
        self._runs[start] = stop, crc


def joined_crc(first: int, second: int, n_bytes: int) -> int:
    """Return the CRC-32 of bytes and of ``n_bytes`` that follow them, by the CRC of each."""
    return _product(_power(n_bytes), first) ^ second


@lru_cache(maxsize=4096)
def _power(n_bytes: int) -> int:
    """Return x^(8 n) modulo the polynomial."""
    power = 1 << 31  # x^0
    for bit, square in enumerate(_squares()):
        if n_bytes >> bit & 1:
            power = _product(square, power)
    return power


@lru_cache(maxsize=1)
def _squares() -> list[int]:
    """Return x^8, and the square of each before it, for lengths of 64 bits."""
    squares = [1 << 23]
    while len(squares) < 64:
        squares.append(_product(squares[-1], squares[-1]))
    return squares


def _product(a: int, b: int) -> int:
    """Return the product of two polynomials modulo that of CRC-32."""
    product, mask = 0, 1 << 31
    while a:
        if a & mask:
            product, a = product ^ b, a ^ mask
        mask >>= 1
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
