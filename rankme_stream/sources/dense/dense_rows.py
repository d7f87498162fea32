"""Rows of an array that lies in one block of a file, read into given memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from math import prod
from typing import Any, Literal

import numpy as np

from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.numerics.dtypes import Array, StoredType
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions, Opening
from rankme_stream.sources.dense.layout import DenseLayout
from rankme_stream.sources.features_axis import axis_of_features, check_rows
from rankme_stream.sources.storage import Storage
from rankme_stream.sources.stores.stored_file import OpenFile, StoredFile
from rankme_stream.sources.value_types import chosen_scales, meaning_by_options
from rankme_stream.sources.whole_rows import WholeRows

_BUFFER_BYTES = 8 * 2**20  # of values that lie feature by feature, or between other bytes
_CACHED_BYTES = 2**20  # of rows between other bytes, which are copied from the cache where no server is waited for


class DenseRows(WholeRows):
    """Rows of an array in a file; axes other than the features' are flattened to rows in storage order.

    Parameters
    ----------
    file
        File that holds it.
    layout
        Where its values lie.
    options
        What the caller says about the array.
    inside
        Name of the array in the file, where it may hold several.
    is_scales
        Whether it is an array of scales: of one dimension, it is taken as one feature.

    Attributes
    ----------
    scales
        Array of scales that the options name; None without.
    axis, n_axes
        Number of the axis of the features, and of all axes.

    Raises
    ------
    UsageError
        If there is no such axis as the options name, or an option is not understood.
    SourceFormatError
        If it is not a non-empty array of numbers of two dimensions or more, or it is not clear which axis is the
        features.
    """

    def __init__(
        self, file: StoredFile, layout: DenseLayout, options: ArrayOptions = NO_OPTIONS, *, inside: str = "",
        is_scales: bool = False,
    ) -> None:  # fmt: skip
        self._file, self._layout, self._options, self._inside = file, layout, options, inside
        self.uri = f"{file.uri}::{inside}" if inside else file.uri
        axes = layout.axes
        if is_scales and len(axes) == 1:
            axes = (*axes, 1)
        check_rows(axes, self.uri)
        self.n_axes = len(axes)
        self.axis = len(axes) - 1 if is_scales else axis_of_features(options.features_axis, axes, None, self.uri)
        place = len(axes) - 1 - self.axis if layout.is_fortran else self.axis
        stored = axes[::-1] if layout.is_fortran else axes
        self._before, self._after = prod(stored[:place]), prod(stored[place + 1 :])
        self.stored: StoredType = meaning_by_options(layout.dtype, options, self.uri, type_name=layout.type_name)
        self.scales = chosen_scales(options)
        if self._after > 1 and layout.between:
            raise SourceFormatError(
                f"{self.uri} has gaps between its rows, so that only its last axis can be the features"
            )
        self.shape: tuple[int, int] = (self._before * self._after, axes[self.axis])
        self._row_bytes = self.shape[1] * self.stored.dtype.itemsize
        self._swaps = not layout.dtype.isnative

    @property
    def lies_by_feature(self) -> bool:
        """Whether the values of a row lie apart, so that a read goes through the file once for each block of rows."""
        return self._after > 1

    @property
    def row_order(self) -> tuple[object, ...] | None:
        """What the order of the rows depends on; None where it is that of C."""
        return ("fortran",) if self._layout.is_fortran and self.n_axes > 2 else None

    def coordinates(self, start: int, stop: int) -> Array:
        """Return where rows ``[start, stop)`` lie in the array; shape and use as of ``ZarrSource.coordinates``."""
        others = self._layout.axes[: self.axis] + self._layout.axes[self.axis + 1 :]
        order: Literal["C", "F"] = "F" if self._layout.is_fortran else "C"
        return np.stack(np.unravel_index(np.arange(start, stop), others, order), axis=-1)

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return the row offsets strictly inside ``(start, stop)``: a read may begin at any row."""
        return range(start + 1, stop)

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)``, native byte order, C order, in ``out`` when given.

        Raises
        ------
        CorruptChunkError
            If the file was truncated since it was opened, or what stands between its rows is not what belongs there.
        StorageError, SourcePermissionError
            If the storage fails, or the file may no longer be read.
        """
        if out is None:
            out = np.empty((stop - start, self.shape[1]), self.stored.dtype)
        if stop <= start:
            return out
        with self._file.opened() as file:
            if self._after > 1:
                self._read_columns(file, start, stop, out)
            elif self._layout.between:
                self._read_apart(file, start, stop, out)
            else:
                file.read_into(out, self._layout.offset + start * self._row_bytes, _rows(start, stop))
        if self._swaps:
            out.byteswap(inplace=True)
        return out

    def read_memory(self, n_rows: int) -> int:
        """Return the peak bytes of reading ``n_rows`` rows, result included."""
        itemsize = self.stored.dtype.itemsize
        extra = 0
        if self._after > 1:
            extra = max(_BUFFER_BYTES, n_rows * itemsize)
        elif self._layout.between:
            extra = max(_BUFFER_BYTES, self._row_bytes)
        return n_rows * self._row_bytes + extra + self._file.read_memory(extra or n_rows * self._row_bytes)

    def reopen(self) -> Any:
        """Return the address, with the options if there are any."""
        options = replace(self._options, path=self._inside) if self._inside else self._options
        return self._file.address if options == NO_OPTIONS else Opening(self._file.address, options)

    def argument_of(self, path: str) -> Opening:
        """Return what opens another array of the file; beside a file that holds one, what lies at a path by itself."""
        return Opening(self._file.address, ArrayOptions(path=path)) if self._inside else Opening(path, NO_OPTIONS)

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash of the file's size and time or tag, of the array's header, and of the axis of the features."""
        digest = blake2b(self._layout.header, digest_size=16)
        digest.update(f"{self._file.stamp()} {self._inside} {self.axis} {self.n_axes}".encode(errors="surrogatepass"))
        return digest.hexdigest()

    def storage(self) -> Storage:
        """Return the order of the values, and the size of the array."""
        order = "row by row" if self._after == 1 else "feature by feature"
        if self.n_axes > 2:
            axes = " x ".join(f"{n:,}" for n in self._layout.axes)
            order += f", of axes {axes}, axis {self.axis} that of the features"
        layout = [("order", order)]
        if self._layout.between:
            layout.append(("between rows", f"{self._layout.between:,} bytes of other data, which are skipped"))
        if self._swaps:
            layout.append(("byte order", "that of the other kind of processor: swapped when read"))
        packed: int | None = getattr(self._file, "n_packed", None)
        if packed is not None:
            layout.append(("compression", "deflate, which is unpacked in order, by one thread"))
        return Storage(facts=tuple(layout), n_bytes=self._layout.n_bytes if packed is None else packed)

    def _read_columns(self, file: OpenFile, start: int, stop: int, out: Array) -> None:
        """Read rows whose values lie feature by feature, in blocks of one index of the axes before the features'."""
        while start < stop:
            block, first = divmod(start, self._after)
            n_rows = min(stop - start, self._after - first)
            self._read_block(file, block * self.shape[1] * self._after + first, out[:n_rows], (start, start + n_rows))
            start, out = start + n_rows, out[n_rows:]

    def _read_block(self, file: OpenFile, first: int, out: Array, rows: tuple[int, int]) -> None:
        n_rows, itemsize = len(out), self.stored.dtype.itemsize
        width = max(1, min(self.shape[1], _BUFFER_BYTES // max(1, n_rows * itemsize)))
        buffer = np.empty((width, n_rows), self.stored.dtype)
        for feature in range(0, self.shape[1], width):
            columns = buffer[: self.shape[1] - feature]
            for k, segment in enumerate(columns):
                offset = self._layout.offset + (first + (feature + k) * self._after) * itemsize
                file.read_into(segment, offset, _rows(*rows))
            out[:, feature : feature + len(columns)] = columns.T

    def _read_apart(self, file: OpenFile, start: int, stop: int, out: Array) -> None:
        """Read rows with other bytes between them, and leave those out."""
        step, mark = self._row_bytes + self._layout.between, self._layout.mark
        at_once = max(1, (_BUFFER_BYTES if self._file.is_remote else _CACHED_BYTES) // step)
        buffer = np.empty(min(at_once, stop - start) * step - self._layout.between + len(mark), np.uint8)
        for low in range(start, stop, at_once):
            high = min(stop, low + at_once)
            held = buffer[: (high - low) * step - self._layout.between + len(mark)]
            file.read_into(held, self._layout.offset + low * step - len(mark), _rows(low, high))
            if mark:
                marks = np.ndarray((high - low,), f"u{len(mark)}", held, 0, (step,))
                wrong = marks != np.frombuffer(mark, marks.dtype)
                if wrong.any():
                    raise self._other_mark(low + int(np.argmax(wrong)))
            rows = np.ndarray((high - low, self._row_bytes), np.uint8, held, len(mark), (step, 1))
            out[low - start : high - start].view(np.uint8)[...] = rows

    def _other_mark(self, row: int) -> CorruptChunkError:
        return CorruptChunkError(
            f"row {row:,} of {self.uri} is not as wide as the first, by what stands before it: a damaged file, or rows "
            "of different widths, which are not read"
        )


def _rows(start: int, stop: int) -> str:
    return f"rows {start:,}-{stop:,}"
