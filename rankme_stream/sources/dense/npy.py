"""``.npy`` files: their header, and rows and labels in them."""

from __future__ import annotations

import io
import os
import tokenize
from typing import Any

import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions
from rankme_stream.sources.dense.dense_rows import DenseRows
from rankme_stream.sources.dense.layout import DenseLayout
from rankme_stream.sources.dense.named_arrays import refuse_name
from rankme_stream.sources.stores.stored_file import LocalFile, OpenFile, StoredFile

LONGEST_HEADER = 2**16  # numpy itself refuses those above 10,000 bytes, once it has read them
_MAGIC = np.lib.format.MAGIC_PREFIX
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def open_rows(file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> DenseRows:
    """Open the rows of a ``.npy`` file.

    Raises
    ------
    SourceError, StorageError
        If the file cannot be read, is no ``.npy`` file of numbers, or is shorter or longer than its header says.
    """
    refuse_name(inside, options, file.uri)
    return NpySource(file, options, is_scales=is_scales)


class NpySource(DenseRows):
    """Rows of a ``.npy`` file, by its path or as a stored file; raises as ``open_rows``."""

    def __init__(
        self, file: StoredFile | str | os.PathLike[str], options: ArrayOptions = NO_OPTIONS, *, is_scales: bool = False
    ) -> None:
        stored = LocalFile(file) if isinstance(file, str | os.PathLike) else file
        super().__init__(stored, npy_layout(stored), options, is_scales=is_scales)


def npy_layout(file: StoredFile, uri: str = "") -> DenseLayout:
    """Return where the array of a ``.npy`` file lies; refuse a file that is shorter or longer than its header says.

    Parameters
    ----------
    uri
        Name for messages, where it is not that of the file.

    Raises
    ------
    SourceError, StorageError
        As ``open_rows``.
    """
    with file.opened() as opened:
        layout = layout_of(opened.read(0, LONGEST_HEADER), uri or file.uri)
        layout.check_size(opened.n_bytes, uri or file.uri, _remedy(opened, layout.offset + layout.n_bytes))
    return layout


def layout_of(beginning: bytes, uri: str) -> DenseLayout:
    """Return where an array lies, by the beginning of its ``.npy`` file, of `LONGEST_HEADER` bytes at most.

    Raises
    ------
    SourceFormatError
        If it is none, or its values are no numbers.
    """
    if not beginning.startswith(_MAGIC):
        what = f"it begins with {beginning[: len(_MAGIC)]!r}" if beginning else "it is empty"
        raise SourceFormatError(f"{uri} is no .npy file, whatever its name: {what}; write it again with np.save")
    stream = io.BytesIO(beginning)
    shape, is_fortran, dtype = _header(stream, uri)
    if dtype.hasobject:
        raise SourceFormatError(f"{uri} holds pickled objects, which are not read: save numbers instead")
    stored = shape[::-1] if is_fortran else shape
    layout = DenseLayout(stored, dtype, stream.tell(), is_fortran, header=beginning[: stream.tell()])
    layout.check(uri)
    return layout


def _remedy(opened: OpenFile, expected: int) -> str:
    """Return what to do about a file with bytes behind its array."""
    if opened.n_bytes > expected and opened.read(expected, len(_MAGIC)) == _MAGIC:
        return (
            "another array begins there, as after several np.save into one file: call np.load on the opened file once "
            "for each, and save them joined or to a file each"
        )
    return "copy or write it again"


def _header(file: Any, uri: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        reader = _HEADER_READERS.get(version)
        if reader is not None:
            shape, is_fortran, dtype = reader(file)
            return shape, is_fortran, dtype
    except (
        ValueError,
        TypeError,
        SyntaxError,
        EOFError,
        tokenize.TokenError,
        LookupError,
        OverflowError,
        RuntimeError,
        MemoryError,
    ) as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise SourceFormatError(f"{uri} is not a .npy file that can be read: {text}") from error
    raise SourceFormatError(f"{uri} is a .npy file of version {version}; 1.0 and 2.0 are read: save it again")
