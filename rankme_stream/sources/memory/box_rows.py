"""Rows of an array that a library hands out box by box: of Dask, xarray, h5py, pandas or SciPy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from itertools import groupby
from math import prod
from typing import Any, Protocol

import numpy as np

from rankme_stream.errors import SourceFormatError, UsageError, argument
from rankme_stream.numerics.dtypes import Array, StoredType
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions
from rankme_stream.sources.content import content_digest
from rankme_stream.sources.features_axis import axis_of_features, check_rows
from rankme_stream.sources.memory.held_blocks import BlockType, as_rows
from rankme_stream.sources.storage_order import Axis, StorageOrder, boxes
from rankme_stream.sources.value_types import meaning_by_options
from rankme_stream.sources.whole_rows import WholeRows

_HELD_AS_BITS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")  # types of ml_dtypes
_APPLYING = ("features_axis", "dtype", "nodata", "decode")
_PACKED = ("scale_factor", "add_offset", "_FillValue", "missing_value")  # attributes of CF


class BoxArray(Protocol):
    """Array of which a library reads any box.

    Attributes
    ----------
    uri
        Name in errors and records.
    shape, dtype, names
        Shape, number type, and names of the axes as far as they have any.
    chunks
        Lengths of the chunks along each axis; None where any box is read alone.
    copies
        Number of copies of the numbers that a read holds for a while, beside the rows that it returns.
    lacking
        What is wrong with a row that holds NaN, where ``read`` writes NaN for numbers that are absent.
    """

    uri: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    names: Sequence[str | None] | None
    chunks: Sequence[Sequence[int]] | None
    copies: int
    lacking: str

    def read(self, box: tuple[slice, ...]) -> Any:
        """Return the numbers in a box, which is not empty; threads call this at once."""

    def stamp(self) -> str | None:
        """Return a text that changes with the numbers; None to hash some of them instead."""


class BoxRows(WholeRows):
    """Rows of an array that is read box by box; axes other than the features' are flattened to rows, chunk by chunk.

    Parameters
    ----------
    array
        The array.
    options
        What the caller says about it.

    Raises
    ------
    UsageError
        If an option does not apply to arrays in memory, or there is no such axis.
    SourceFormatError
        If it is not a non-empty array of numbers of two dimensions or more, or it is not clear which axis is the
        features.
    """

    def __init__(self, array: BoxArray, options: ArrayOptions = NO_OPTIONS) -> None:
        refuse_other_options(options, _APPLYING)
        self._array, self.uri = array, array.uri
        shape = array.shape
        check_rows(shape, self.uri)
        self.axis = axis_of_features(options.features_axis, shape, array.names, self.uri)
        type_name = array.dtype.name if array.dtype.name in _HELD_AS_BITS else None
        kind = meaning_by_options(array.dtype, options, self.uri, type_name=type_name)
        self.stored: StoredType = replace(kind, lacking=array.lacking)
        lengths = array.chunks or [(length,) for length in shape]
        chunks = [one for axis, one in enumerate(lengths) if axis != self.axis]
        self._order = StorageOrder([Axis(sum(one), _runs(one)) for one in chunks])
        self.shape: tuple[int, int] = (self._order.n_cells, shape[self.axis])
        self._row_bytes = self.shape[1] * self.stored.dtype.itemsize
        self.block_type = BlockType(self.uri, self.shape[1], array.dtype, self.stored)

    @property
    def feature_names(self) -> Sequence[str]:
        """Names of the columns that are the features; empty where they have none."""
        return getattr(self._array, "feature_names", ())

    def coordinates(self, start: int, stop: int) -> Array:
        """Return where rows ``[start, stop)`` lie in the array; shape and use as of ``ZarrSource.coordinates``."""
        found = [np.empty((0, len(self._order.axes)), np.int64)]
        for box in self.boxes(start, stop):
            sides = [range(part.start, part.stop) for axis, part in enumerate(box) if axis != self.axis]
            found.append(np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, len(sides)))
        return np.concatenate(found)

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return the row offsets strictly inside ``(start, stop)`` where a chunk begins; any row where none are."""
        if self._array.chunks is None:
            return range(start + 1, stop)
        axis = self._order.axes[0]
        if len(self._order.axes) == 1 and axis.step:
            return range((start // axis.step + 1) * axis.step, stop, axis.step)
        inside = self._order.chunks(start, stop)
        return [self._order.start(chunk) for chunk in inside[1:]]

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)``, native byte order, C order, in ``out`` when given.

        Raises
        ------
        SourceFormatError
            If the library returns other numbers than the array declares, or masked ones.
        """
        if out is None:
            out = np.empty((stop - start, self.shape[1]), self.stored.dtype)
        filled = 0
        for box in self.boxes(start, stop):
            shape = tuple(part.stop - part.start for part in box)
            rows = as_rows(self._array.read(box), shape, self.block_type, _shown(box), axis=self.axis)
            out[filled : filled + len(rows)] = rows
            filled += len(rows)
        return out

    def boxes(self, start: int, stop: int) -> Iterable[tuple[slice, ...]]:
        """Yield the boxes that make up rows ``[start, stop)``, in order; one where one axis is that of the rows."""
        if len(self._order.axes) == 1:
            if start < stop:
                yield self._with_features((slice(start, stop),))
            return
        for chunk in self._order.chunks(start, stop):
            first, lengths = self._order.start(chunk), self._order.extents(chunk)
            low, high = max(start, first) - first, min(stop, first + prod(lengths)) - first
            corner = self._order.starts(chunk).tolist()
            for box in boxes(lengths, low, high):
                moved = (slice(part.start + by, part.stop + by) for part, by in zip(box, corner, strict=True))
                yield self._with_features(tuple(moved))

    def _with_features(self, box: tuple[slice, ...]) -> tuple[slice, ...]:
        return (*box[: self.axis], slice(0, self.shape[1]), *box[self.axis :])

    def read_memory(self, n_rows: int) -> int:
        """Return the peak bytes of reading ``n_rows`` rows from a bound, without what the library holds by itself."""
        held = n_rows if self._array.chunks is None else min(-(-n_rows // self._largest) * self._largest, self.shape[0])
        return (n_rows + self._array.copies * held) * self._row_bytes

    @cached_property
    def _largest(self) -> int:
        """Number of rows of the largest chunk."""
        return prod(min(axis.longest, axis.length) for axis in self._order.axes)

    def reopen(self) -> None:
        """Return None: the array lives in this process."""

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash of shape, axis, number type and what the library says of the numbers, or some of them."""
        stamp = self._array.stamp() or content_digest(self, start, stop)
        text = f"{self._array.shape} {self.axis} {self.stored.name} {start} {stop} {stamp}"
        return "memory-" + blake2b(text.encode(), digest_size=16).hexdigest()


def refuse_other_options(options: ArrayOptions, applying: Sequence[str]) -> None:
    """Refuse options of stored arrays that mean nothing for an array in memory.

    Raises
    ------
    UsageError
        If one of them is given.
    """
    for name, value in vars(options).items():
        if name == "key" and value is not None:
            raise UsageError(f"{argument(name)} names a column or a member, and these rows have none: leave it out")
        if value is not None and (name not in applying or str(value).startswith("bits")):
            raise UsageError(f"{argument(name)} is for an array that is stored, and these rows are not")


def refuse_packed(attributes: Mapping[str, Any], uri: str, remedy: str) -> None:
    """Refuse an array whose attributes say that its numbers are packed, or which of them are no data.

    Raises
    ------
    SourceFormatError
        If they do: the library that handed it in has not applied them.
    """
    for name in _PACKED:
        if name in attributes and not (attributes[name] != attributes[name]):  # NaN means nothing more
            raise SourceFormatError(f"{uri} has the attribute {name}, which was not applied: {remedy}")


def _runs(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return the lengths of chunks and how many follow one another, without chunks of length 0."""
    return [(length, len(list(same))) for length, same in groupby(lengths) if length]


def _shown(box: tuple[slice, ...]) -> str:
    """Return a box in words."""
    return "the part [" + ", ".join(f"{part.start}:{part.stop}" for part in box) + "]"
