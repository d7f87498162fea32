"""Rows of bits packed eight a byte, as features of -1 and +1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rankme_stream.errors import SourceFormatError, argument
from rankme_stream.numerics.dtypes import Array, named_type
from rankme_stream.sources.source import Source
from rankme_stream.sources.storage import Storage, storage_of

_AT_ONCE = 2**18  # bits unpacked at once: what that takes stays in the cache


class BitRows:
    """Rows of int8, -1 for a bit that is 0 and +1 for one that is 1; the first feature is the highest bit.

    Parameters
    ----------
    rows
        Bytes in uint8, as ``numpy.packbits`` makes them, or in int8, less 128.
    width
        Number of features, where the last byte is filled up; None for eight a byte.

    Raises
    ------
    SourceFormatError
        If the rows are not of bytes, or the width does not fit them.
    """

    def __init__(self, rows: Source, width: int | None = None) -> None:
        n_rows, n_bytes = rows.shape
        n_features = 8 * n_bytes if width is None else width
        if rows.stored.name not in ("uint8", "int8"):
            raise SourceFormatError(
                f"{rows.uri} holds {rows.stored.name}; packed bits are in uint8 or int8: leave {argument('decode')} out"
            )
        if -(-n_features // 8) != n_bytes:
            raise SourceFormatError(
                f"{rows.uri} holds {n_bytes:,} bytes a row, and {n_features:,} bits take {-(-n_features // 8):,}: "
                f"correct {argument('decode')}"
            )
        self.uri, self.shape, self.integrity = rows.uri, (n_rows, n_features), rows.integrity
        self._rows, self._flipped = rows, np.uint8(0x80 if rows.stored.name == "int8" else 0)
        note = f"int8, -1 and +1 for the bits of {rows.stored.name}, by option decode"
        self.stored = replace(named_type("int8"), note=note)

    @property
    def chunks_missing(self) -> int:
        """Number of chunks known so far to be unwritten."""
        return self._rows.chunks_missing

    @property
    def first_missing(self) -> str | None:
        """Key of the first such chunk."""
        return self._rows.first_missing

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return the row offsets strictly inside ``(start, stop)`` where a chunk of the bytes begins."""
        return self._rows.bounds(start, stop)

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)`` in int8, in ``out`` when given; raises as the source of the bytes."""
        signs = np.empty((stop - start, self.shape[1]), np.int8) if out is None else out
        packed = self._rows.read(start, stop).view(np.uint8)
        step = max(1, _AT_ONCE // self.shape[1])
        for low in range(0, stop - start, step):
            some = slice(low, low + step)
            bits = np.unpackbits(packed[some] ^ self._flipped, axis=1, count=self.shape[1]).view(np.int8)
            np.left_shift(bits, 1, out=signs[some])
            signs[some] -= 1
        return signs

    def read_memory(self, n_rows: int) -> int:
        """Return an upper estimate of the bytes that reading ``n_rows`` rows from a bound takes, result included."""
        return self._rows.read_memory(n_rows) + n_rows * self.shape[1] + 2 * max(_AT_ONCE, self.shape[1])

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges within ``[start, stop)`` known so far to be unwritten, ascending, merged."""
        return self._rows.missing(start, stop)

    @property
    def tail_start(self) -> int:
        """First row of the unit of storage that is written again when rows are added; the number of rows if none."""
        return self._rows.tail_start

    def reopen(self) -> Any:
        """Return an argument of ``open_source`` for another process: that of the bytes, with the rule."""
        return self._rows.reopen()

    def identity(self) -> dict[str, object]:
        """Return the properties that all parts of a data set share."""
        return self._rows.identity() | {"n_features": self.shape[1], "decoding": "bits"}

    def storage(self) -> Storage:
        """Return how the bytes are stored."""
        return storage_of(self._rows)

    def fingerprint(self, start: int, stop: int) -> str:
        """Return the hash of the bytes, and of the number of features."""
        return f"bits{self.shape[1]}-{self._rows.fingerprint(start, stop)}"
