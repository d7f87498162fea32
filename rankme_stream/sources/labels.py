"""Labels of rows, one per row: integers or strings of an array, an ``.npy`` file or a zarr array."""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np

from rankme_stream.errors import SourceFormatError, SourceNotFoundError, SourcePermissionError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.npy import refuse_url
from rankme_stream.sources.zarr import ZarrLabels, is_zarr_node


class Labels(Protocol):
    """Labels of the rows of a source, one per row, which can be read in any order."""

    uri: str
    n_rows: int

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)`` as stored."""


class ArrayLabels:
    """Labels in memory or in a memory-mapped file.

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
            raise SourceFormatError(
                f"{uri} has shape {self._array.shape}; labels are an array of one dimension, one for each row"
            )
        self.uri, self.n_rows = uri, len(self._array)

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)``."""
        return self._array[start:stop]


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
    if not uri.endswith(".npy"):
        return ZarrLabels(uri)
    refuse_url(uri)
    try:
        return ArrayLabels(np.load(uri, mmap_mode="r", allow_pickle=False), uri)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceNotFoundError(f"there is no file {uri}") from error
    except PermissionError as error:
        raise SourcePermissionError(f"{uri} may not be read: check its permissions") from error
    except (ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SourceFormatError(f"{uri} is not a .npy file that can be read: {reason}") from error


def plain(labels: Array, uri: str) -> Array:
    """Return labels as integers or text, so that names are exactly what was stored.

    Raises
    ------
    SourceFormatError
        For numbers other than integers and objects other than strings.
    """
    kind = labels.dtype.kind
    if kind in "iuU":
        return labels.astype(labels.dtype.newbyteorder("="), copy=False)
    if kind == "b":
        return labels.astype(str)
    try:
        if kind == "S":
            return np.char.decode(labels, "utf-8")
        if kind in "OT" and all(isinstance(label, str) for label in labels):
            return np.array(labels.tolist(), dtype=str)
    except UnicodeDecodeError as error:
        raise SourceFormatError(f"{uri} holds bytes that are not UTF-8: {error}; store strings instead") from error
    raise SourceFormatError(f"{uri} holds labels of dtype {labels.dtype}; integers or strings are needed: convert them")
