"""Blocks of an array that workers of a cluster compute, and rows in those that a worker holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.dtypes import Array, StoredType
from rankme_stream.sources.source import Source
from rankme_stream.sources.whole_rows import WholeRows


class BlockType(NamedTuple):
    """What all blocks of a source are: their number of features, their dtype, and what their numbers mean."""

    uri: str
    n_features: int
    dtype: np.dtype[Any]
    stored: StoredType


class ComputedBlock(NamedTuple):
    """Rows [start, stop) of a source, features last, and what holds them: a Dask array, its future, or its numbers."""

    start: int
    stop: int
    values: Any


class BlockSource(Source, Protocol):
    """Source whose blocks the workers of a cluster can compute, although it lives in this process."""

    block_type: BlockType

    def blocks_to_compute(self, start: int, stop: int) -> Sequence[ComputedBlock]:
        """Return the whole blocks that hold rows ``[start, stop)``, as Dask arrays."""


def block_source(source: Any) -> BlockSource | None:
    """Return a source if workers of a cluster can compute its blocks; None for others."""
    return source if hasattr(source, "blocks_to_compute") else None


class HeldBlocks(WholeRows):
    """Rows of a source in blocks that are here; row numbers are those of the source.

    Parameters
    ----------
    blocks
        Blocks of numbers, ascending, without gaps.
    kind
        What they are.

    Raises
    ------
    SourceFormatError
        If a block is something else.
    """

    def __init__(self, blocks: Sequence[ComputedBlock], kind: BlockType) -> None:
        self.uri, self.stored = kind.uri, kind.stored
        self._starts = [block.start for block in blocks]
        self._rows = [
            as_rows(one.values, (one.stop - one.start, kind.n_features), kind, f"rows {one.start:,}-{one.stop - 1:,}")
            for one in blocks
        ]
        self.shape: tuple[int, int] = (blocks[-1].stop, kind.n_features)

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return the row offsets strictly inside ``(start, stop)``: a read may begin at any row."""
        return range(start + 1, stop)

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)``, all of which are here, in ``out`` when given."""
        if out is None:
            out = np.empty((stop - start, self.shape[1]), self.stored.dtype)
        for first, rows in zip(self._starts, self._rows, strict=True):
            low, high = max(start, first), min(stop, first + len(rows))
            if low < high:
                out[low - start : high - start] = rows[low - first : high - first]
        return out

    def read_memory(self, n_rows: int) -> int:
        """Return the bytes of ``n_rows`` rows."""
        return n_rows * self.shape[1] * self.stored.dtype.itemsize

    def reopen(self) -> None:
        """Return None: the rows live in this process."""

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a name: blocks that were computed do not change."""
        return f"blocks {start} {stop}"


def as_rows(values: Any, shape: tuple[int, ...], kind: BlockType, place: str, *, axis: int = -1) -> Array:
    """Return numbers that a library computed as rows, once they are of the shape and type that it declared.

    Parameters
    ----------
    axis
        Axis of the features.

    Raises
    ------
    SourceFormatError
        If they are something else, or masked.
    """
    where = f"{kind.uri}: what was computed of {place}"
    if isinstance(values, np.ma.MaskedArray):
        raise SourceFormatError(f"{where} is a masked array: fill it with NaN, or leave the masked rows out first")
    if not isinstance(values, np.ndarray):
        raise SourceFormatError(
            f"{where} is a {type(values).__name__}, not an array of numpy: convert it first, as by map_blocks"
        )
    native = kind.dtype.newbyteorder("=")
    if values.dtype.newbyteorder("=") != native or values.size != np.prod(shape) or values.shape[axis] != shape[axis]:
        raise SourceFormatError(
            f"{where} is {values.dtype} of shape {values.shape}, and {native} of shape {shape} was declared: declare "
            "what is computed"
        )
    rows = np.moveaxis(values, axis, -1).reshape(-1, kind.n_features)
    rows = rows.astype(native, copy=False)
    return rows if native == kind.stored.dtype else rows.view(kind.stored.dtype)
