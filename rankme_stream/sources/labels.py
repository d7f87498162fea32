"""Labels of rows, one per row: integers or strings of an array, a file, a column of a table or a zarr array."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np

from rankme_stream.errors import SourceFormatError, SourceNotFoundError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.address import split_address
from rankme_stream.sources.concat import Part
from rankme_stream.sources.csv_labels import ENDINGS, CsvLabels
from rankme_stream.sources.dense.layout import DenseLayout
from rankme_stream.sources.dense.npy import npy_layout
from rankme_stream.sources.dense.npz import npz_labels
from rankme_stream.sources.formats import format_of
from rankme_stream.sources.shards import shards_of
from rankme_stream.sources.stores.stored_file import StoredFile
from rankme_stream.sources.stores.stored_files import stored_file
from rankme_stream.sources.zarr import check_length, is_zarr_node, matching_arrays, open_zarr_labels

_NONE_TYPES = ("NAType", "NaTType")  # of pandas, which is not imported for them


class Labels(Protocol):
    """Labels of the rows of a source, one per row, which can be read in any order."""

    uri: str
    n_rows: int

    @property
    def names(self) -> Sequence[str] | None:
        """Names of the labels where these are numbers of categories; None where a label is its own name."""

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)`` as stored; a masked array where rows have none."""


class NpyLabels:
    """Labels in a ``.npy`` file, or in one of an ``.npz`` archive.

    Raises
    ------
    SourceError
        If its array is not one-dimensional.
    """

    names = None

    def __init__(self, file: StoredFile, layout: DenseLayout, uri: str) -> None:
        self._file, self._layout, self.uri = file, layout, uri
        dtype = layout.dtype
        if len(self._layout.shape) != 1:
            raise SourceFormatError(_not_one_dimension(self.uri, self._layout.axes))
        if dtype.kind == "U":
            check_length(dtype.itemsize // 4, self.uri)
        self.n_rows = self._layout.shape[0]

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)``."""
        labels = np.empty(stop - start, self._layout.dtype)
        with self._file.opened() as file:
            offset = self._layout.offset + start * labels.itemsize
            file.read_into(labels, offset, f"rows {start:,}-{stop:,}")
        return labels


class ArrayLabels:
    """Labels in memory: an array or a sequence, or a column of pandas, polars or pyarrow, categories too.

    Raises
    ------
    SourceFormatError
        If the array is not one-dimensional, or its categories are not integers or strings.
    """

    def __init__(self, array: Any, uri: str = "<labels>") -> None:
        categorical = getattr(array, "cat", array)  # of a Series
        self.names: Sequence[str] | None = None
        if hasattr(categorical, "codes") and hasattr(categorical, "categories"):
            self.names = [str(name) for name in plain(np.asarray(categorical.categories), uri).tolist()]
            array = np.ma.masked_less(np.asarray(categorical.codes), 0)
        elif hasattr(array, "isna") and not isinstance(array.dtype, np.dtype):  # pandas makes floats of its integers
            array = np.ma.MaskedArray(array.to_numpy(dtype=object), np.asarray(array.isna()))
        elif _has_nulls(array):  # numpy makes floats of its integers
            array = np.array(array.to_pylist() if hasattr(array, "to_pylist") else array.to_list(), dtype=object)
        elif isinstance(array, list | tuple) and any(isinstance(label, str) for label in array):
            array = np.array(array, dtype=object)  # in which None and NaN stay what they are
        try:
            self._array = np.asanyarray(array)
        except (TypeError, ValueError) as error:
            raise SourceFormatError(f"{uri} is no array of labels: {error}") from error
        if self._array.ndim != 1:
            raise SourceFormatError(_not_one_dimension(uri, self._array.shape))
        self.uri, self.n_rows = uri, len(self._array)

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)``."""
        labels: Array = self._array[start:stop]
        return labels


def _has_nulls(array: Any) -> bool:
    """Return whether a column of polars or pyarrow lacks some labels."""
    count = getattr(array, "null_count", 0)
    return bool(count() if callable(count) else count)


class ConcatLabels:
    """Labels of the parts of a source, one after another.

    Attributes
    ----------
    parts
        Labels of each part.
    """

    names = None

    def __init__(self, parts: Sequence[Labels], uri: str) -> None:
        self.parts, self.uri = parts, uri
        self._starts = [0, *accumulate(part.n_rows for part in parts)]
        self.n_rows = self._starts[-1]

    def check_parts(self, parts: Sequence[Part]) -> None:
        """Refuse labels whose parts are not those of the source."""
        for labels, part in zip(self.parts, parts, strict=False):
            if labels.n_rows != part.stop - part.start:
                raise SourceFormatError(
                    f"{labels.uri} holds {labels.n_rows:,} labels, and {part.name} {part.stop - part.start:,} rows: "
                    "one for each row is needed"
                )

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)``, by their names where a part numbers categories."""
        pieces = []
        for labels, (first, last) in zip(self.parts, pairwise(self._starts), strict=True):
            if first < stop and last > start:
                held = labels.read(max(start, first) - first, min(stop, last) - first)
                pieces.append(held if labels.names is None else _named(held, labels.names))
        if len({piece.dtype.kind in "iu" for piece in pieces}) > 1:
            raise SourceFormatError(f"{self.uri} holds integers and strings: labels of all parts are of one kind")
        if len(pieces) == 1:
            return pieces[0]
        is_none = np.concatenate([np.ma.getmaskarray(piece) for piece in pieces])
        return np.ma.MaskedArray(np.concatenate([np.ma.getdata(piece) for piece in pieces]), is_none)


def _named(codes: Array, names: Sequence[str]) -> Array:
    """Return the names of categories in place of their numbers."""
    is_none = np.ma.getmaskarray(codes)
    return np.ma.MaskedArray(np.array(names)[np.where(is_none, 0, np.ma.getdata(codes))], is_none)


def _not_one_dimension(uri: str, shape: tuple[int, ...]) -> str:
    return f"{uri} has shape {shape}; labels are an array of one dimension, one for each row"


def open_labels(source: object, missing: str = "error") -> Labels:
    """Open labels: ``store.zarr::labels``, ``labels.npy``, a column of a table, something of zarr, or in memory.

    A column is ``labels.csv::column``, ``labels.parquet::column`` or ``labels.arrow::column``; a table with one column
    that fits needs no name, nor does an archive (``dump.npz::labels``) with one array of one dimension. What is in
    memory is an array or a sequence.

    A folder of files, or a pattern in a path, stands for the labels of the parts of a source, one after another in
    natural order.

    Parameters
    ----------
    missing
        Chunks that were never written: ``error`` refuses them, ``skip`` takes them for rows without a label, ``fill``
        for the fill value.

    Raises
    ------
    SourceError
        If nothing is there, it may not be read, or it is not a one-dimensional array.
    """
    if is_zarr_node(source):
        return open_zarr_labels(source, missing)
    if not isinstance(source, str | os.PathLike):
        return ArrayLabels(source)
    uri = os.fspath(source)
    if (files := shards_of(uri)) is not None:
        return ConcatLabels([open_labels(file, missing) for file in files.addresses], files.uri)
    if (found := matching_arrays(uri)) is not None:
        return ConcatLabels([open_zarr_labels(found.source, missing, path) for path in found.paths], uri)
    location, column = split_address(uri)
    name = (location.partition("?")[0] if "://" in location else location).lower()
    if name.endswith(".npy") and not column:
        return NpyLabels(file := stored_file(location), npy_layout(file), file.uri)
    if name.endswith(".npz"):
        return NpyLabels(*npz_labels(stored_file(location), column))
    if (separator := ENDINGS.get(os.path.splitext(name)[1])) is not None:
        return CsvLabels(stored_file(location), column, separator)
    if (table := format_of(location)) is not None:
        labels: Labels = table.open_labels(stored_file(location), column)
        return labels
    if uri and not os.path.isabs(uri) and "::" not in uri and "://" not in uri and not os.path.lexists(uri):
        raise SourceNotFoundError(
            f"there is no file or folder {uri!r}: check the path; of labels in a store give STORE::{uri}"
        )
    return open_zarr_labels(uri, missing)


def labels_and_rows(labels: Labels, start: int, stop: int) -> tuple[Array, Array]:
    """Return the labels, as integers or text, of those rows of ``[start, stop)`` that have one, and these rows.

    Raises
    ------
    SourceError
        As ``plain``, or if they cannot be read.
    """
    held, rows = labels.read(start, stop), np.arange(start, stop)
    if isinstance(held, np.ma.MaskedArray):
        held, rows = held.compressed(), rows[~np.ma.getmaskarray(held)]
    if held.dtype.kind in "OT":
        is_label = np.array([not _is_none(label) for label in held], bool)
        held, rows = held[is_label], rows[is_label]
    return plain(held, labels.uri), rows


def _is_none(label: object) -> bool:
    """Return whether an object stands for no label: None, NaN, or what pandas has for them."""
    return (
        label is None
        or type(label).__name__ in _NONE_TYPES
        or (isinstance(label, float | np.floating) and bool(label != label))
    )


def plain(labels: Array, uri: str) -> Array:
    """Return labels as integers or text, so that names are exactly what was stored.

    Raises
    ------
    SourceFormatError
        For numbers other than integers, objects other than strings or integers, and text that UTF-8 does not have.
    """
    kind = labels.dtype.kind
    if kind == "O" and len(labels) and not isinstance(labels[0], str):
        if all(isinstance(label, bool | np.bool) for label in labels):
            return labels.astype(bool).astype(str)
        if all(isinstance(label, int | np.integer) and not isinstance(label, bool) for label in labels):
            labels = np.array(labels.tolist())
            kind = labels.dtype.kind
    if kind in "iu":
        return labels.astype(labels.dtype.newbyteorder("="), copy=False)
    if kind == "U":
        return _checked_text(labels.astype(labels.dtype.newbyteorder("="), copy=False), uri)
    if kind == "b":
        return labels.astype(str)
    try:
        if kind == "S":
            return np.char.decode(labels, "utf-8")
        if kind in "OT" and all(isinstance(label, str) for label in labels):
            check_length(max(map(len, labels), default=0), uri)
            return _checked_text(np.array(labels.tolist(), dtype=str), uri)
    except UnicodeDecodeError as error:
        raise SourceFormatError(f"{uri} holds bytes that are not UTF-8: {error}; store strings instead") from error
    raise SourceFormatError(f"{uri} holds labels of dtype {labels.dtype}; integers or strings are needed: convert them")


def _checked_text(labels: Array, uri: str) -> Array:
    """Return labels of text, or refuse characters that UTF-8, and so JSON, cannot hold: numpy stores any number."""
    if not labels.dtype.itemsize:
        return labels
    points = np.ascontiguousarray(labels).view(np.uint32)
    is_bad = (points > sys.maxunicode) | ((points >= 0xD800) & (points < 0xE000))
    if is_bad.any():
        raise SourceFormatError(
            f"{uri} holds labels with the code point {int(points[is_bad][0]):#x}, which is no character: write them "
            "again"
        )
    return labels
