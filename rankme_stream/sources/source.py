"""Interface that every source of rows implements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from rankme_stream.numerics.dtypes import Array, StoredType


@runtime_checkable
class Source(Protocol):
    """Rows of numbers that can be read in any order, and how they are stored.

    ``integrity`` names the checksum of the stored chunks, or ``none``; ``uri`` is the name in errors and records.
    """

    uri: str
    shape: tuple[int, int]
    stored: StoredType
    integrity: str

    @property
    def chunks_missing(self) -> int:
        """Number of chunks known so far to be unwritten."""

    @property
    def first_missing(self) -> str | None:
        """Key of the first such chunk, for messages."""

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return row offsets strictly inside ``(start, stop)``, ascending; reads between them decode nothing twice."""

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)``: ``stored.dtype``, native byte order, C order, in ``out`` when given.

        ``out`` is C-contiguous and of that shape and dtype. A source in memory may return a view and leave ``out``.
        """

    def read_memory(self, n_rows: int) -> int:
        """Return an upper estimate of the peak bytes of reading ``n_rows`` rows from a bound, result included."""

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges within ``[start, stop)`` known so far to be unwritten, ascending, merged."""

    @property
    def tail_start(self) -> int:
        """First row of the unit of storage that is written again when rows are added; the number of rows if none."""

    def reopen(self) -> Any:
        """Return a picklable argument of ``open_source`` for another process; None if the rows live in this one."""

    def identity(self) -> dict[str, object]:
        """Return the properties that all parts of a data set share: ``dtype``, ``n_features``, ``codecs``."""

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash that changes with the stored content of rows ``[start, stop)``; may find missing chunks.

        Rows added at or after ``tail_start`` do not change the hash of the rows before it.
        """
