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
    Runs of bytes that follow one another are joined, so a pass over the file keeps a few. A read that overlaps earlier
    ones replaces them; one that lies within an earlier one is not counted again.
    """

    def __init__(self, n_bytes: int, expected: int) -> None:
        self._n_bytes, self._expected, self._lock = n_bytes, expected, threading.Lock()
        self._starts: list[int] = []
        self._runs: dict[int, tuple[int, int]] = {}  # first byte: end and CRC
        self.is_whole = self.is_wrong = False

    def add(self, start: int, content: Any) -> None:
        """Count contiguous bytes, from an offset, as read."""
        stop = start + memoryview(content).nbytes
        if self.is_whole or stop <= start:
            return
        crc = zlib.crc32(content)
        with self._lock:
            self._insert(start, stop, crc)
            if self._runs.get(0, (0, 0))[0] == self._n_bytes:
                self.is_whole, self.is_wrong = True, self._runs[0][1] != self._expected

    def _insert(self, start: int, stop: int, crc: int) -> None:
        first = max(0, bisect_right(self._starts, start) - 1)
        last = bisect_left(self._starts, stop)
        touched = self._starts[first:last]
        if any(one <= start and stop <= self._runs[one][0] for one in touched):
            return
        for one in touched:
            if self._runs[one][0] > start:
                del self._starts[bisect_left(self._starts, one)], self._runs[one]
        if len(self._starts) >= _MOST_RUNS:  # of single rows in no order; a pass begins anew
            self._starts, self._runs = [], {}
        at = bisect_left(self._starts, start)
        if at and self._runs[self._starts[at - 1]][0] == start:
            at -= 1
            before = self._starts.pop(at)
            crc, start = joined_crc(self._runs.pop(before)[1], crc, stop - start), before
        if at < len(self._starts) and self._starts[at] == stop:
            end, after = self._runs.pop(self._starts.pop(at))
            crc, stop = joined_crc(crc, after, end - stop), end
        self._starts.insert(at, start)
        self._runs[start] = stop, crc


def joined_crc(first: int, second: int, n_bytes: int) -> int:
    """Return the CRC-32 of bytes and of ``n_bytes`` that follow them, by the CRC of each."""
    return _product(_power(n_bytes), first) ^ second


@lru_cache(maxsize=256)
def _power(n_bytes: int) -> int:
    """Return x^(8 n) modulo the polynomial."""
    power, square = 1 << 31, 1 << 23  # x^0 and x^8
    while n_bytes:
        if n_bytes & 1:
            power = _product(square, power)
        square, n_bytes = _product(square, square), n_bytes >> 1
    return power


def _product(a: int, b: int) -> int:
    """Return the product of two polynomials modulo that of CRC-32."""
    product, mask = 0, 1 << 31
    while a:
        if a & mask:
            product, a = product ^ b, a ^ mask
        mask >>= 1
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
