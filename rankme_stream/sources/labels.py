"""Labels of rows, one per row: integers or strings of an array, an ``.npy`` file or a zarr array."""

from __future__ import annotations

import os
import sys
from typing import Any, Protocol

import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.npy import NpyFile
from rankme_stream.sources.zarr import ZarrLabels, check_length, is_zarr_node


class Labels(Protocol):
    """Labels of the rows of a source, one per row, which can be read in any order."""

    uri: str
    n_rows: int

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)`` as stored."""


class NpyLabels:
    """Labels in a ``.npy`` file.

    Raises
    ------
    SourceError
        If the file cannot be read, or its array is not one-dimensional.
    """

    def __init__(self, path: str) -> None:
        self._file = NpyFile(path)
        self.uri = self._file.uri
        if len(self._file.shape) != 1:
            raise SourceFormatError(_not_one_dimension(self.uri, self._file.shape))
        if self._file.dtype.kind == "U":
            check_length(self._file.dtype.itemsize // 4, self.uri)
        self.n_rows = self._file.shape[0]

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)``."""
        labels = np.empty(stop - start, self._file.dtype)
        with self._file.opened() as descriptor:
            self._file.fill(descriptor, labels, start * labels.itemsize, (start, stop))
        return labels


class ArrayLabels:
    """Labels in memory.

    Raises
    ------
    SourceFormatError
        If the array is not one-dimensional.
    """

    def __init__(self, array: Any, uri: str = "<labels>") -> None:
        try:
            self._array = np.asarray(array)
        except (TypeError, ValueError) as error:
            raise SourceFormatError(f"{uri} is no array of labels: {error}") from error
        if self._array.ndim != 1:
            raise SourceFormatError(_not_one_dimension(uri, self._array.shape))
        self.uri, self.n_rows = uri, len(self._array)

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)``."""
        return self._array[start:stop]


def _not_one_dimension(uri: str, shape: tuple[int, ...]) -> str:
    return f"{uri} has shape {shape}; labels are an array of one dimension, one for each row"


def open_labels(source: object) -> Labels:
    """Open labels: ``store.zarr::labels``, ``labels.npy``, a ``zarr.Array``, or an array or sequence in memory.

    Raises
    ------
    SourceError
        If nothing is there, it may not be read, or it is not a one-dimensional array.
    """
    if is_zarr_node(source):
        return ZarrLabels(source)
    if not isinstance(source, str | os.PathLike):
        return ArrayLabels(source)
    uri = os.fspath(source)
    return NpyLabels(uri) if uri.endswith(".npy") else ZarrLabels(uri)


def plain(labels: Array, uri: str) -> Array:
    """Return labels as integers or text, so that names are exactly what was stored.

    Raises
    ------
    SourceFormatError
        For numbers other than integers, objects other than strings, and text that UTF-8 does not have.
    """
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
