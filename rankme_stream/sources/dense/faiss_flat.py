"""Flat indexes of FAISS, which hold whole vectors in float32, also behind a map of ids."""

from __future__ import annotations

import struct

import numpy as np

from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.dense.dense_rows import DenseRows
from rankme_stream.sources.dense.layout import DenseLayout
from rankme_stream.sources.dense.named_arrays import refuse_name
from rankme_stream.sources.stores.stored_file import StoredFile

_FLAT, _MAPPED = {b"IxF2", b"IxFI", b"IxFl"}, {b"IxMp", b"IxM2"}
_HEADER = struct.Struct("<4siqqqBi")  # kind, features, rows, two constants, is trained, metric
_ARGUMENT, _SIZE = 4, 8  # bytes of a metric's argument, which L2 and inner product lack, and of a number of values
_WITHOUT_ARGUMENT = (0, 1)
_ID = 8
HEADER_BYTES = 2 * (_HEADER.size + _ARGUMENT) + _SIZE


def open_rows(file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> DenseRows:
    """Open the vectors of a flat index, in the order in which they were added.

    Raises
    ------
    SourceError, StorageError
        If the file cannot be read, is another index, or its size is not what its header says.
    """
    refuse_name(inside, options, file.uri)
    with file.opened() as opened:
        layout = layout_of(opened.read(0, HEADER_BYTES), opened.n_bytes, file.uri)
        end = layout.offset + layout.n_bytes
        n_ids = int.from_bytes(opened.read(end, _SIZE), "little")
        if end < opened.n_bytes and n_ids != layout.shape[0]:
            raise CorruptChunkError(f"{file.uri} maps {n_ids:,} ids to {layout.shape[0]:,} rows: write it again")
    return DenseRows(file, layout, options, is_scales=is_scales)


def layout_of(beginning: bytes, n_bytes: int, uri: str) -> DenseLayout:
    """Return where the vectors of an index lie, by its first `HEADER_BYTES` and its size.

    Raises
    ------
    CorruptChunkError
        If its size is not what its header says.
    SourceFormatError
        If it is no index of FAISS, or none that is flat.
    """
    kind, n_features, n_rows, offset = _header(beginning, 0, uri)
    n_ids = 0
    if kind in _MAPPED:
        inner, width, n_ids, offset = _header(beginning, offset, uri)
        if (width, n_ids) != (n_features, n_rows):
            raise CorruptChunkError(f"{uri} contradicts itself: an index of {n_rows:,} rows maps the ids of {n_ids:,}")
        kind = inner
    if kind not in _FLAT:
        raise SourceFormatError(
            f"{uri} is an index of FAISS of the kind {kind.decode('latin-1')!r}, and flat ones are read: save its "
            "vectors with np.save(path, index.reconstruct_n(0, index.ntotal))"
        )
    if len(beginning) < offset + _SIZE:
        raise CorruptChunkError(f"{uri} ends within its header: copy or write it again")
    n_values = int.from_bytes(beginning[offset : offset + _SIZE], "little")
    layout = DenseLayout((n_rows, n_features), np.dtype("<f4"), offset + _SIZE, header=beginning[: offset + _SIZE])
    layout.check(uri)
    if n_values != n_rows * n_features:
        raise CorruptChunkError(f"{uri} says {n_rows:,} rows of {n_features:,} features and {n_values:,} values")
    behind = _SIZE + _ID * n_ids if n_ids else 0
    layout.check_size(n_bytes - behind, uri)
    return layout


def _header(beginning: bytes, at: int, uri: str) -> tuple[bytes, int, int, int]:
    """Return kind, features, rows, and the offset behind the header of an index that begins at an offset."""
    kind = beginning[at : at + 4]
    if not kind.startswith(b"I") or len(beginning) < at + _HEADER.size:
        raise SourceFormatError(f"{uri} is no index of FAISS, or it is cut: it begins with {beginning[:4]!r}")
    _, n_features, n_rows, _, _, is_trained, metric = _HEADER.unpack_from(beginning, at)
    if is_trained > 1:
        raise CorruptChunkError(f"{uri} is damaged: its header says {is_trained} for true or false; write it again")
    return kind, n_features, n_rows, at + _HEADER.size + (0 if metric in _WITHOUT_ARGUMENT else _ARGUMENT)
