"""Columns of labels of Arrow files and streams, one batch after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankme_stream.errors import CorruptChunkError
from rankme_stream.sources.stores.stored_file import OpenFile, StoredFile
from rankme_stream.sources.tables.arrow_buffers import read_buffer
from rankme_stream.sources.tables.arrow_fields import FieldPlace, Level, place_of
from rankme_stream.sources.tables.arrow_messages import Batch
from rankme_stream.sources.tables.columns import Column

_MOST_BYTES = 2**28  # of a buffer of labels


class ArrowLabels:
    """Arrays of a column of labels.

    Parameters
    ----------
    different
        Batch with the values that a column of numbers of values stands for; None for other columns.
    """

    def __init__(
        self, file: StoredFile, column: Column, place: FieldPlace, batches: Sequence[Batch],
        different: Batch | None = None,
    ) -> None:  # fmt: skip
        self.uri, self._file, self._place, self._batches = f"{file.uri}::{column.name}", file, place, batches
        self._different: Any = None
        if different is not None:
            values = pa.schema([("", column.type.value_type)])
            of_values = place_of(values, Column("", (0,), column.type.value_type, 0, (), ()))
            with file.opened() as opened:
                self._different = self._array(opened, different, of_values, of_values.levels[0])

    def arrays(self, start: int, stop: int) -> Iterator[Any]:
        """Yield arrays of Arrow with rows [start, stop), in order.

        Raises
        ------
        CorruptChunkError, StorageError, SourcePermissionError
            If they cannot be read, or are damaged.
        """
        row = 0
        with self._file.opened() as file:
            for batch in self._batches:
                low, high = max(start, row) - row, min(stop, row + batch.n_rows) - row
                if low < high:
                    yield self._labels(file, batch).slice(low, high - low)
                row += batch.n_rows

    def _labels(self, file: OpenFile, batch: Batch) -> Any:
        """Return the labels of a batch; null where a structure that holds them is."""
        *above, last = self._place.levels
        labels = self._array(file, batch, self._place, last)
        if self._different is not None:
            labels = self._checked(pa.DictionaryArray.from_arrays, labels, self._different)
        for level in above:
            bits = self._buffer(file, batch, level.buffer + int(batch.n_views[: self._place.n_views].sum()))
            if batch.nodes[level.node, 1]:
                is_valid = self._checked(pa.Array.from_buffers, pa.bool_(), batch.n_rows, [None, bits])
                labels = labels.take(pc.if_else(is_valid, pa.array(np.arange(len(labels))), None))
        return labels

    def _array(self, file: OpenFile, batch: Batch, place: FieldPlace, level: Level) -> Any:
        """Return a column of a batch as an array of Arrow, which was checked throughout."""
        kind = level.type.index_type if pa.types.is_dictionary(level.type) else level.type
        first = level.buffer + int(batch.n_views[: place.n_views].sum())
        n_buffers = 3 if pa.types.is_string(kind) or pa.types.is_large_string(kind) else 2
        if pa.types.is_string_view(kind):
            n_buffers = 2 + int(batch.n_views[place.n_views]) if place.n_views < len(batch.n_views) else 0
        if level.node >= len(batch.nodes) or not 0 < n_buffers <= len(batch.buffers) - first:
            raise self._damaged("a batch has fewer buffers than the schema")
        n_entries, n_null = (int(number) for number in batch.nodes[level.node])
        buffers = [self._buffer(file, batch, number) for number in range(first, first + n_buffers)]
        if not n_null:
            buffers[0] = None
        found = self._checked(pa.Array.from_buffers, kind, n_entries, buffers)
        self._checked(found.validate, full=True)
        if level in self._place.levels and len(found) != batch.n_rows:
            raise self._damaged(f"a batch of {batch.n_rows:,} rows has {len(found):,} labels")
        return found

    def _buffer(self, file: OpenFile, batch: Batch, number: int) -> Any:
        start, size = (int(one) for one in batch.buffers[number])
        try:
            span = (batch.body + start, batch.body + start + size)
            return pa.py_buffer(read_buffer(file, span, batch.codec, _MOST_BYTES, self.uri))
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _checked(self, make: Any, *given: Any, **options: Any) -> Any:
        """Return what a function of pyarrow makes of what the file holds."""
        try:
            return make(*given, **options)
        except (pa.ArrowException, ValueError, IndexError) as error:
            raise self._damaged(" ".join(str(error).split())[:300]) from error

    def _damaged(self, fault: str) -> CorruptChunkError:
        return CorruptChunkError(f"{self.uri} is damaged: {fault}; copy or write it again")
