"""Rows of an open data set of h5py, read through h5py and its lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rankme_stream.errors import SourceFormatError
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.memory.box_rows import BoxRows, refuse_packed

_ALLOCATED = 2  # H5D_SPACE_STATUS_ALLOCATED


class OpenDataset:
    """Data set of h5py as boxes."""

    copies = 1
    lacking = ""
    names: Sequence[str | None] | None = None

    def __init__(self, dataset: Any, uri: str) -> None:
        self._dataset, self.uri = dataset, uri
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self.chunks: Sequence[Sequence[int]] | None = None
        if dataset.chunks is not None:
            pairs = zip(self.shape, dataset.chunks, strict=True)
            self.chunks = [[min(step, n - start) for start in range(0, n, step)] for n, step in pairs]

    def read(self, box: tuple[slice, ...]) -> Any:
        """Read a box."""
        return self._dataset[box]

    def stamp(self) -> None:
        """Return None: some of the numbers are hashed."""


def open_rows(dataset: Any, options: ArrayOptions) -> BoxRows:
    """Open the rows of an open data set.

    Raises
    ------
    SourceFormatError
        Also if some of it was never written, so that fill values would stand for rows.
    """
    uri = f"{dataset.file.filename}::{dataset.name}"
    refuse_packed(dataset.attrs, uri, "close it and give FILE::PATH instead, which applies them")
    if dataset.is_virtual:
        raise SourceFormatError(
            f"{uri} is a virtual data set, in which absent files read as fill values: copy it first"
        )
    if dataset.size and dataset.id.get_space_status() != _ALLOCATED:
        raise SourceFormatError(
            f"{uri} was not written to its end, and fill values would be read as rows: write the rest"
        )
    return BoxRows(OpenDataset(dataset, uri), options)
