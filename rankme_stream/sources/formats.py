"""Formats of files that hold rows, told by the ending of a name or by first bytes, and the module that opens each."""

from __future__ import annotations

import os
import re
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

from rankme_stream.errors import SourceFormatError
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.scaled_rows import StoredArray
from rankme_stream.sources.stores.stored_file import StoredFile
from rankme_stream.sources.stores.stored_files import stored_file


class Opener(Protocol):
    """Function ``open_rows`` of the module of a format."""

    def __call__(self, file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> StoredArray:
        """Open the rows of a file, or of the array or column of that name ``inside``.

        Parameters
        ----------
        is_scales
            Whether it is an array of scales of other rows: of one dimension, it is taken as one feature.
        """


class Format(NamedTuple):
    """Format of files.

    Attributes
    ----------
    name
        Name in messages.
    endings
        Endings of names, in lower case.
    module
        Module with the function ``open_rows``, and ``open_labels`` if it has columns; it is imported when a file of the
        format is opened.
    extra
        Extra of this package that installs its reader; None where none is needed.
    magic
        Pattern of the first bytes of its files, by which those with another ending or none are known; None without.
    is_bare
        Whether its files do not say the width of rows and where the first begins, so that the caller does.
    """

    name: str
    endings: tuple[str, ...]
    module: str
    extra: str | None = None
    magic: re.Pattern[bytes] | None = None
    is_bare: bool = False

    def open(self, file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> StoredArray:
        """Open the rows of a file; parameters as of `Opener`.

        Raises
        ------
        SourceFormatError
            If the format's reader is not installed; the message has the command that installs it.
        SourceError, StorageError, UsageError
            As the module of the format.
        """
        opener = cast(Opener, self._module(file).open_rows)
        return opener(file, inside, options, is_scales=is_scales)

    def open_labels(self, file: StoredFile, inside: str) -> Any:
        """Open the labels in a column of a table, one for each row; ``inside`` is its name.

        Raises
        ------
        SourceFormatError
            If the format has no columns of labels.
        SourceError, StorageError
            As ``open``.
        """
        module = self._module(file)
        if not hasattr(module, "open_labels"):
            raise SourceFormatError(
                f"{file.uri} is {self.name}, in which no labels are read: store them in a table, a CSV file or an .npy "
                "file"
            )
        return module.open_labels(file, inside)

    def _module(self, file: StoredFile) -> Any:
        """Return the module of the format; name what installs its reader."""
        try:
            return import_module(self.module)
        except ImportError as error:
            if self.extra is None:
                raise
            raise SourceFormatError(
                f"{file.uri} is {self.name}, and its reader is not installed: pip install 'rankme-stream[{self.extra}]'"
            ) from error


_HERE = "rankme_stream.sources"
_DENSE = f"{_HERE}.dense"
_FIRST_BYTES = 512  # in which each magic is looked for


def _magic(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


_RAW = Format(
    "a file of numbers without a header", (".bin", ".raw", ".dat", ".f16", ".bf16", ".f32", ".f64"),
    f"{_DENSE}.raw_binary", is_bare=True,
)  # fmt: skip
FORMATS = (
    Format(".npy", (".npy",), f"{_DENSE}.npy", magic=_magic(rb"\x93NUMPY")),
    Format(
        "HDF5", (".h5", ".hdf5", ".he5", ".h5ad", ".nc", ".nc4"), f"{_HERE}.hdf5.rows", "hdf5",
        magic=_magic(rb"\x89HDF\r\n\x1a\n"),
    ),
    Format(
        "an .npz archive", (".npz",), f"{_DENSE}.npz",
        magic=_magic(rb"PK\x03\x04.{26}[^\0]{1,200}?\.npy(?:\x01|\x93NUMPY)"),
    ),
    Format(
        "a safetensors file", (".safetensors", ".safetensors.index.json"), f"{_DENSE}.safetensors",
        magic=_magic(rb".{4}\0{4}\{[ -~]{16}"),
    ),
    Format(
        "a file of torch.save", (".pt", ".pth", ".ckpt"), f"{_DENSE}.torch_file",
        magic=_magic(rb"PK\x03\x04.{26}[^\0/]{1,200}/data\.pkl"),
    ),
    Format("an index of FAISS", (".faiss", ".index"), f"{_DENSE}.faiss_flat", magic=_magic(rb"Ix(?:F[2Il]|M[p2])")),
    Format(
        "a file of vectors", (".fbin", ".u8bin", ".i8bin", ".hbin", ".f16bin", ".fvecs", ".bvecs", ".ivecs"),
        f"{_DENSE}.vector_files",
    ),
    Format(
        "an Arrow file", (".arrow", ".feather", ".ipc", ".arrows"), f"{_HERE}.tables.arrow", "parquet",
        _magic(rb"ARROW1\0\0"),
    ),
    Format("a Parquet file", (".parquet", ".pq"), f"{_HERE}.tables.parquet", "parquet", _magic(rb"PAR1")),
    _RAW,
)  # fmt: skip


def format_at(location: str) -> Format | None:
    """Return the format of a file by its name, or by its first bytes where the name does not tell it.

    None for URLs and for what is no file, where the name does not tell it.

    Raises
    ------
    SourceError, StorageError
        If the file cannot be read.
    """
    found = format_of(location)
    if found is not _RAW and (found is not None or not os.path.isfile(location)):
        return found
    with stored_file(location).opened() as opened:
        beginning = opened.read(0, _FIRST_BYTES)
    return next((one for one in FORMATS if one.magic is not None and one.magic.match(beginning)), found)


def format_of(location: str) -> Format | None:
    """Return the format of a file by the ending of its name; None for others."""
    name = location.lower()
    if "://" in name:
        name = name.partition("?")[0].partition("#")[0]
    return next((one for one in FORMATS if name.endswith(one.endings)), None)
