"""Rows of a sparse matrix or array of SciPy, made dense block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse

from rankme_stream.errors import SourceFormatError
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.features_axis import axis_of_features
from rankme_stream.sources.memory.box_rows import BoxRows

_URI = "<scipy.sparse>"


class SparseArray:
    """Sparse matrix by compressed rows as boxes: numbers stored twice at a place are added, as SciPy does."""

    copies = 3  # the dense block, and the numbers and columns of its part, of which there are few
    lacking = ""
    names: Sequence[str | None] | None = None
    chunks: Sequence[Sequence[int]] | None = None
    uri = _URI

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix
        self.shape, self.dtype = matrix.shape, matrix.dtype

    def read(self, box: tuple[slice, ...]) -> Any:
        """Return rows as a dense array."""
        return self._matrix[box[0]].toarray()

    def stamp(self) -> None:
        """Return None: some of the numbers are hashed."""


def open_rows(matrix: Any, options: ArrayOptions) -> BoxRows:
    """Open the rows of a sparse matrix or array; other forms than compressed rows are brought to it, in a copy.

    Raises
    ------
    SourceFormatError
        Also if its indices lie outside.
    """
    if matrix.ndim != 2:
        raise SourceFormatError(f"{_URI} has shape {matrix.shape}; a (rows, features) matrix is needed: reshape it")
    if axis_of_features(options.features_axis, matrix.shape, None, _URI) == 0:
        matrix = matrix.T
    rows = _compressed(matrix)
    try:
        rows.check_format(full_check=True)
    except ValueError as error:
        raise SourceFormatError(f"{_URI} is damaged: {' '.join(str(error).split())}; make it again") from error
    return BoxRows(SparseArray(rows), replace(options, features_axis=None))


def _compressed(matrix: Any) -> Any:
    """Return a matrix by compressed rows, numbers stored twice at a place kept in their order.

    SciPy's own ``tocsr`` of coordinates adds them in another order than ``toarray`` does.
    """
    if matrix.format != "coo":
        return matrix.tocsr()
    order = np.argsort(matrix.row, kind="stable")
    counts = np.bincount(matrix.row, minlength=matrix.shape[0])
    starts = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_array((matrix.data[order], matrix.col[order], starts), shape=matrix.shape)
