"""Chunk grid of a zarr array of any rank, whose rows are numbered in storage order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np

from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.storage_order import Axis, StorageOrder
from rankme_stream.sources.zarr.grids.shard_index import ShardIndex

_T = TypeVar("_T")
_NUMBER = re.compile("0|[1-9][0-9]{0,18}")  # as keys hold it: "01" is another name


class Box(NamedTuple):
    """Part of an array in one chunk.

    Attributes
    ----------
    row, n_rows
        First row of its unit, and number of rows.
    lengths
        Lengths along the axes of the rows, cut to the array.
    column, n_columns
        First feature, and number of features.
    shape
        Lengths along all axes, in the order of the array, as they are stored: they may reach past the array.
    """

    row: int
    n_rows: int
    lengths: tuple[int, ...]
    column: int
    n_columns: int
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ChunkGrid:
    """Chunk grid of a zarr array: one axis is that of the features, the others make up the rows, in storage order.

    Rows are numbered key by key, under a key chunk by chunk, in a chunk in C order, so that a pass over the rows
    decodes each chunk once. The rows of a chunk are a **unit**, which chunks side by side along the features share.

    Parameters
    ----------
    axes
        Axes of the array, cut at the keys: into chunks, or into shards.
    features_axis
        Number of the axis of the features.
    inner
        Shape of the chunks in a shard; None without shards.
    prefix, separator
        A key is ``prefix`` and the coordinates of a chunk, joined by ``separator``.
    index
        Layout of the index of the largest shard; None without shards.
    is_line
        Whether no axis of the array is that of the features: the last axis is a single feature, and keys omit it.
    """

    axes: tuple[Axis, ...]
    features_axis: int
    inner: tuple[int, ...] | None
    prefix: str
    separator: str
    index: ShardIndex | None
    is_line: bool = False

    @cached_property
    def keys(self) -> StorageOrder:
        """Rows by the keys that hold them; a key of this order may stand for several, side by side along features."""
        return StorageOrder(self._of_rows(self.axes))

    @cached_property
    def _units(self) -> StorageOrder:
        """Units by the keys that hold them."""
        assert self.inner is not None
        return StorageOrder(
            [axis.divided(n) for axis, n in zip(self.keys.axes, self._of_rows(self.inner), strict=True)]
        )

    @cached_property
    def _line(self) -> Axis | None:
        """The axis of the rows, cut into units; None where several axes make up the rows."""
        axis, *others = self.keys.axes
        if others:
            return None
        return axis if self.inner is None else Axis.regular(axis.length, *self._of_rows(self.inner))

    @cached_property
    def _features(self) -> Axis:
        """The axis of the features, cut into chunks."""
        axis = self.axes[self.features_axis]
        return axis if self.inner is None else Axis.regular(axis.length, self.inner[self.features_axis])

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and features of the array."""
        return self.keys.n_cells, self._features.length

    @cached_property
    def n_outer_columns(self) -> int:
        """Number of keys along the features."""
        return self.axes[self.features_axis].n_chunks

    @cached_property
    def n_inner_columns(self) -> int:
        """Number of chunks along the features."""
        return self._features.n_chunks

    @cached_property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of the largest chunk, along the axes of the array."""
        shape = self.inner or tuple(axis.longest for axis in self.axes)
        return shape[:-1] if self.is_line else shape

    @cached_property
    def chunks_per_key(self) -> int:
        """Most chunks under a key."""
        if self.inner is None:
            return 1
        return prod(axis.longest // n for axis, n in zip(self.axes, self.inner, strict=True))

    @cached_property
    def least_rows(self) -> int:
        """Rows of the smallest unit, cut to the array."""
        if self.inner is None:
            return prod(axis.shortest for axis in self.keys.axes)
        axes = zip(self.keys.axes, self._of_rows(self.inner), strict=True)
        return prod(Axis.regular(axis.length, n).shortest for axis, n in axes)

    @cached_property
    def most_rows(self) -> int:
        """Most rows that a unit can hold of the array."""
        longest = self._of_rows(self.inner or tuple(axis.longest for axis in self.axes))
        return prod(min(axis.length, n) for axis, n in zip(self.keys.axes, longest, strict=True))

    @cached_property
    def has_features_last(self) -> bool:
        """Whether the features are the last axis, so that the values of a row in a chunk lie side by side."""
        return self.features_axis == len(self.axes) - 1

    @cached_property
    def row_order(self) -> tuple[object, ...] | None:
        """What the order of the rows depends on, beside their number; None where it is that of the values in C order.

        Arrays that have it in common number the rows at the same places alike.
        """
        inner = self.inner or tuple(axis.longest for axis in self.axes)
        cut = [one for one in zip(self.keys.axes, self._of_rows(inner), strict=True) if one[0].length > 1]
        if all(axis.n_chunks == 1 and length >= axis.length for axis, length in cut[1:]):
            return None
        return tuple(
            (axis.length, tuple(axis.runs(axis.n_chunks)), length if self.inner else 0) for axis, length in cut
        )

    @cached_property
    def has_whole_rows(self) -> bool:
        """Whether the chunks hold whole rows, one after another, and nothing else."""
        return self._line is not None and self.has_features_last and self._features.longest == self.shape[1]

    @cached_property
    def tail_start(self) -> int:
        """First row that is stored with rows that may be added along the first axis; the number of rows if none."""
        axis = self.keys.axes[0]
        last = axis.n_chunks - 1
        is_full = axis.extent(last) == axis.stored(last)
        return self.shape[0] if is_full else axis.start(last) * (self.shape[0] // axis.length)

    def longest_value(self, longest_chunk: int) -> int:
        """Return the most bytes under a key, of chunks of at most ``longest_chunk`` bytes each."""
        return self.chunks_per_key * longest_chunk + (self.index.n_bytes if self.index else 0)

    def outer_rows(self, start: int, stop: int) -> range:
        """Return the numbers, along the rows, of the keys that hold rows ``[start, stop)``."""
        return self.keys.chunks(start, stop)

    def key_rows(self, i: int) -> tuple[int, int]:
        """Return the rows ``[A, B)`` under keys with number ``i`` along the rows."""
        return self.keys.start(i), self.keys.start(i + 1)

    def key_columns(self, j: int) -> slice:
        """Return the features under keys with number ``j`` along the features."""
        axis = self.axes[self.features_axis]
        return slice(axis.start(j), axis.start(j + 1))

    def key_units(self, i: int) -> range:
        """Return the units under keys with number ``i`` along the rows."""
        return range(i, i + 1) if self.inner is None else range(self._units.start(i), self._units.start(i + 1))

    def key_chunk_columns(self, j: int) -> range:
        """Return the chunks, counted along the features, under keys with number ``j`` along the features."""
        if self.inner is None:
            return range(j, j + 1)
        columns = self.key_columns(j)
        return range(self._features.find(columns.start), self._features.find(columns.stop - 1) + 1)

    def key(self, i: int, j: int) -> str:
        """Return the key with number ``i`` along the rows and ``j`` along the features."""
        if self.is_line:
            return self.prefix + self.separator.join(map(str, self.keys.coordinates(i)))
        if len(self.axes) == 2:  # nearly always, and asked for every key
            return (
                f"{self.prefix}{i}{self.separator}{j}" if self.features_axis else f"{self.prefix}{j}{self.separator}{i}"
            )
        return self.prefix + self.separator.join(map(str, self._with_column(self.keys.coordinates(i), j)))

    def coordinates(self, key: str) -> tuple[int, int] | None:
        """Return the numbers of ``key`` along rows and features; None for a key that is no chunk of the array."""
        names = key.removeprefix(self.prefix).split(self.separator) + ["0"] * self.is_line
        is_chunk = key.startswith(self.prefix) and len(names) == len(self.axes) and all(map(_NUMBER.fullmatch, names))
        if not is_chunk:
            return None
        places = [int(name) for name in names]
        if any(place >= axis.n_chunks for place, axis in zip(places, self.axes, strict=True)):
            return None
        return self.keys.number(self._of_rows(places)), places[self.features_axis]

    def unit_at(self, row: int) -> int:
        """Return the number of the unit that holds a row."""
        if self._line is not None:
            return self._line.find(row)
        i = self.keys.find(row)
        return i if self.inner is None else self._units.start(i) + self._within(i).find(row - self.keys.start(i))

    def unit_start(self, unit: int) -> int:
        """Return the first row of a unit; for the unit after the last, the number of rows."""
        if self._line is not None:
            return self._line.start(unit)
        if self.inner is None:
            return self.keys.start(unit)
        if unit == self._units.n_cells:
            return self.shape[0]
        order, number, i = self._in_order(unit)
        return order.start(number) + self.keys.start(i or 0)

    def units(self, start: int, stop: int) -> range:
        """Return the units that hold rows ``[start, stop)``."""
        return range(self.unit_at(start), self.unit_at(stop - 1) + 1) if start < stop else range(0)

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return the rows strictly inside ``(start, stop)`` at which units begin; takes no memory for each."""
        first, last = self.unit_at(start) + 1, self.unit_at(stop - 1) + 1
        if self._line is not None and self._line.step:
            return range(first * self._line.step, stop, self._line.step)
        return UnitBounds(self, range(first, last))

    def row_coordinates(self, start: int, stop: int) -> Array:
        """Return the places of rows ``[start, stop)`` along the axes of the rows, shape ``(stop - start, n_axes)``."""
        found: list[Array] = [np.empty((0, len(self.keys.axes)), np.int64)]
        for unit in self.units(start, stop):
            order, number, i = self._in_order(unit)
            origins = order.starts(number) + (0 if i is None else self.keys.starts(i))
            found.append(np.indices(order.extents(number)).reshape(len(origins), -1).T + origins)
        first = self.unit_start(self.unit_at(start)) if start < stop else 0
        return np.concatenate(found)[start - first :][: stop - start]

    def _in_order(self, unit: int) -> tuple[StorageOrder, int, int | None]:
        """Return the order in which a unit is a chunk, its number there, and that of its shard; None without shards."""
        if self.inner is None:
            return self.keys, unit, None
        i = self._units.find(unit)
        return self._within(i), unit - self._units.start(i), i

    def key_of(self, unit: int, column: int) -> tuple[int, int]:
        """Return the numbers, along rows and features, of the key that holds a chunk."""
        if self.inner is None:
            return unit, column
        return self._units.find(unit), self.axes[self.features_axis].find(self._features.start(column))

    def by_unit(self, i: int, j: int, values: Array) -> Array:
        """Return the values for the chunks of a shard, which has axes as the array, in shape ``(units, columns, ...)``.

        Chunks of the shard that lie past the array are left out.
        """
        units, columns = self.key_units(i), self.key_chunk_columns(j)
        cut = *(slice(axis.n_chunks) for axis in self._within(i).axes), slice(len(columns))
        kept = np.moveaxis(values, self.features_axis, len(self.axes) - 1)[cut]
        return kept.reshape(len(units), len(columns), *values.shape[len(self.axes) :])

    def name(self, unit: int, column: int) -> str:
        """Return the name of a chunk for a message: its key, and its coordinates in a shard."""
        i, j = self.key_of(unit, column)
        if self.inner is None:
            return self.key(i, j)
        order, number, _ = self._in_order(unit)
        place = self._with_column(order.coordinates(number), column - self.key_chunk_columns(j).start)
        return f"{self.key(i, j)} (inner chunk {','.join(map(str, place))})"

    def index_of(self, i: int, j: int) -> ShardIndex:
        """Return the layout of the index of a shard."""
        assert self.index is not None and self.inner is not None
        places = self._with_column(self.keys.coordinates(i), j)
        stored = (axis.stored(place) // n for axis, place, n in zip(self.axes, places, self.inner, strict=True))
        return self.index.with_counts(tuple(stored))

    def box(self, unit: int, column: int) -> Box:
        """Return the part of the array that a chunk holds."""
        if self._even_steps is not None:  # nearly always, and asked for every chunk
            row_step, column_step, shape = self._even_steps
            row, first = unit * row_step, column * column_step
            n_rows = min(row_step, self.shape[0] - row)
            return Box(row, n_rows, (n_rows,), first, min(column_step, self.shape[1] - first), shape)
        order, number, i = self._in_order(unit)
        row = order.start(number) + (0 if i is None else self.keys.start(i))
        lengths, first = order.extents(number), self._features.start(column)
        shape = self.inner or tuple(
            axis.stored(place)
            for axis, place in zip(self.axes, self._with_column(order.coordinates(number), column), strict=True)
        )
        n_columns = self._features.start(column + 1) - first
        return Box(row, prod(lengths), lengths, first, n_columns, shape)

    @cached_property
    def _even_steps(self) -> tuple[int, int, tuple[int, ...]] | None:
        """Rows and features of a chunk, and its shape, where all chunks have one and the rows are one axis."""
        shape = self.inner or tuple(axis.step for axis in self.axes)
        if self._line is None or 0 in shape:
            return None
        return self._line.step, self._features.step, shape

    def _within(self, i: int) -> StorageOrder:
        """Return the rows of a shard by the chunks that hold them."""
        assert self.inner is not None
        return _regular_order(self.keys.extents(i), self._of_rows(self.inner))

    def _of_rows(self, values: Sequence[_T]) -> tuple[_T, ...]:
        """Return what belongs to the axes of the rows."""
        return (*values[: self.features_axis], *values[self.features_axis + 1 :])

    def _with_column(self, places: tuple[int, ...], column: int) -> tuple[int, ...]:
        """Return coordinates along the axes of the array from those of the rows and that of the features."""
        return (*places[: self.features_axis], column, *places[self.features_axis :])


@lru_cache(maxsize=256)
def _regular_order(lengths: tuple[int, ...], steps: tuple[int, ...]) -> StorageOrder:
    return StorageOrder([Axis.regular(length, step) for length, step in zip(lengths, steps, strict=True)])


class UnitBounds(Sequence[int]):
    """First rows of consecutive units, worked out when asked for; ``step`` is the most rows between two of them."""

    def __init__(self, grid: ChunkGrid, units: range) -> None:
        self._grid, self._units = grid, units
        self.step = grid.most_rows

    def __len__(self) -> int:
        return len(self._units)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return UnitBounds(self._grid, self._units[index])
        return self._grid.unit_start(self._units[index])
