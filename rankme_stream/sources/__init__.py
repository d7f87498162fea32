"""Where rows come from: zarr arrays, ``.npy`` files, arrays in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.devices.registry import is_array
from rankme_stream.numerics.dtypes import Array, StoredType
from rankme_stream.sources.array import ArraySource
from rankme_stream.sources.block_stream import BlockStream, Window
from rankme_stream.sources.npy import NpySource
from rankme_stream.sources.zarr import ZarrSource, is_zarr_node

__all__ = [
    "ArraySource", "BlockStream", "NpySource", "Source", "Window", "ZarrSource", "is_blocks", "open_source",
]  # fmt: skip


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


def open_source(source: object) -> Source:
    """Open rows for reading.

    Parameters
    ----------
    source
        ``store.zarr``, ``store.zarr::group/array`` or ``file.npy`` as a string or path; a two-dimensional array of
        numpy or of a library that lends its memory (torch, CuPy, JAX: DLPack); a ``zarr.Array``; or a `Source`, which
        is returned as it is.

    Raises
    ------
    SourceError
        Nothing is there, it may not be read, or it is not a two-dimensional array of numbers.
    """
    if isinstance(source, str | os.PathLike):
        uri = os.fspath(source)
        if not isinstance(uri, str):
            raise SourceFormatError(f"{uri!r} is a path of bytes; a string is needed")
        return NpySource(uri) if uri.endswith(".npy") else ZarrSource(uri)
    if is_zarr_node(source):
        return ZarrSource(source)
    if isinstance(source, Source):
        return source
    if is_array(source):
        return ArraySource(source)
    raise SourceFormatError(
        f"rows cannot be read from a {type(source).__name__}; a path, an array, a zarr.Array or a Source is needed"
    )


def is_blocks(source: object) -> bool:
    """Whether something is an iterable of blocks of rows rather than rows that can be read in any order."""
    is_rows = isinstance(source, str | bytes | os.PathLike | Source) or hasattr(source, "__array__")
    return isinstance(source, Iterable) and not is_rows and not is_array(source) and not is_zarr_node(source)
