"""What every source of rows tells and does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from rankme_stream.numerics.dtypes import Array, StoredType


@runtime_checkable
class Source(Protocol):
    """Rows of numbers that can be read in any order, and what is known of how they are stored."""

    uri: str
    shape: tuple[int, int]
    stored: StoredType
    integrity: str

    @property
    def chunks_missing(self) -> int:
        """Number of chunks known so far to be unwritten."""

    @property
    def first_missing(self) -> str | None:
        """Key of the first of them, for messages."""

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Row offsets strictly inside ``(start, stop)``, ascending, where a read decodes nothing twice."""

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)``: ``stored.dtype``, native byte order, C order, in ``out`` when given.

        ``out`` is C-contiguous and of that shape and dtype. A source in memory may return a view and leave ``out``.
        """

    def read_memory(self, n_rows: int) -> int:
        """Upper estimate of the peak bytes of a read of ``n_rows`` rows from a bound, result included."""

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Row ranges within ``[start, stop)`` known so far to be unwritten, ascending, merged."""

    @property
    def tail_start(self) -> int:
        """First row of what is stored together with the last row, so written again when rows are added; or all rows."""

    def reopen(self) -> Any:
        """Return what ``open_source`` takes in another process, picklable; None for rows that live in this one."""

    def identity(self) -> dict[str, object]:
        """What two sources must share to be parts of one data set: ``dtype``, ``n_features``, ``codecs``."""

    def fingerprint(self, start: int, stop: int) -> str:
        """Hash that changes when what is stored for rows ``[start, stop)`` changes; finds missing chunks on the way.

        Rows added behind ``tail_start`` do not change that of the rows before it.
        """
