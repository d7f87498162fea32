"""Files of vectors of the benchmarks of nearest neighbours: ``.fbin`` and its like, ``.fvecs`` and its like."""

from __future__ import annotations

from posixpath import splitext

import numpy as np

from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.dense.dense_rows import DenseRows
from rankme_stream.sources.dense.layout import DenseLayout
from rankme_stream.sources.dense.named_arrays import refuse_name
from rankme_stream.sources.stores.stored_file import StoredFile

_BIN = {".fbin": "<f4", ".u8bin": "u1", ".i8bin": "i1", ".hbin": "<f2", ".f16bin": "<f2"}
_VECS = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}
_BIN_HEADER, _VECS_HEADER = 8, 4
_WIDEST = 2**20  # features of a row in .fvecs; a larger number is no width


def open_rows(file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> DenseRows:
    """Open the rows of a file of vectors, whose number type its ending tells.

    Raises
    ------
    SourceError, StorageError
        If the file cannot be read, or its size is not what its header says.
    """
    refuse_name(inside, options, file.uri)
    with file.opened() as opened:
        layout = layout_of(opened.read(0, _BIN_HEADER), opened.n_bytes, file.uri)
    return DenseRows(file, layout, options, is_scales=is_scales)


def layout_of(beginning: bytes, n_bytes: int, uri: str) -> DenseLayout:
    """Return where the rows of a file lie, by its first 8 bytes, its size and the ending of its name.

    Raises
    ------
    CorruptChunkError
        If its size is not what its header says.
    SourceFormatError
        If it is too short for a header.
    """
    name = uri.lower()
    ending = splitext(name.partition("?")[0] if "://" in name else name)[1]
    if ending in _BIN:
        if len(beginning) < _BIN_HEADER:
            raise SourceFormatError(f"{uri} is shorter than the header of a {ending} file, of {_BIN_HEADER} bytes")
        n_rows, n_features = (int(number) for number in np.frombuffer(beginning[:_BIN_HEADER], "<u4"))
        layout = DenseLayout((n_rows, n_features), np.dtype(_BIN[ending]), _BIN_HEADER, header=beginning)
        layout.check_size(n_bytes, uri)
        return layout
    dtype, mark = np.dtype(_VECS[ending]), beginning[:_VECS_HEADER]
    n_features = int.from_bytes(mark, "little")
    if len(mark) < _VECS_HEADER or not 0 < n_features <= _WIDEST:
        raise SourceFormatError(f"{uri} is no {ending} file: it says that its first row has {n_features:,} features")
    n_rows, rest = divmod(n_bytes, _VECS_HEADER + n_features * dtype.itemsize)
    if rest:
        raise CorruptChunkError(
            f"{uri} holds {n_bytes:,} bytes, which rows of {n_features:,} features, each behind {_VECS_HEADER} bytes, "
            "do not fill: copy or write it again"
        )
    shape = (n_rows, n_features)
    return DenseLayout(shape, dtype, _VECS_HEADER, between=_VECS_HEADER, mark=mark, header=mark)
