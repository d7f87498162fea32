"""Formats of files that hold rows, told by the ending of a name, and the module that opens each."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple, Protocol, cast

from rankme_stream.errors import SourceFormatError
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.scaled_rows import StoredArray
from rankme_stream.sources.stores.stored_file import StoredFile


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
        Module with the function ``open_rows``; it is imported when a file of the format is opened.
    extra
        Extra of this package that installs its reader; None where none is needed.
    """

    name: str
    endings: tuple[str, ...]
    module: str
    extra: str | None = None

    def open(self, file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> StoredArray:
        """Open the rows of a file; parameters as of `Opener`.

        Raises
        ------
        SourceFormatError
            If the format's reader is not installed; the message has the command that installs it.
        SourceError, StorageError, UsageError
            As the module of the format.
        """
        try:
            opener = cast(Opener, import_module(self.module).open_rows)
        except ImportError as error:
            if self.extra is None:
                raise
            raise SourceFormatError(
                f"{file.uri} is {self.name}, and its reader is not installed: pip install 'rankme-stream[{self.extra}]'"
            ) from error
        return opener(file, inside, options, is_scales=is_scales)


_HERE = "rankme_stream.sources"
_HDF5 = (".h5", ".hdf5", ".he5", ".h5ad", ".nc", ".nc4")
FORMATS = (
    Format(".npy", (".npy",), f"{_HERE}.dense.npy"),
    Format("HDF5", _HDF5, f"{_HERE}.hdf5.rows", "hdf5"),
)


def format_of(location: str) -> Format | None:
    """Return the format of a file by the ending of its name; None for others."""
    name = location.lower()
    if "://" in name:
        name = name.partition("?")[0].partition("#")[0]
    return next((one for one in FORMATS if name.endswith(one.endings)), None)
