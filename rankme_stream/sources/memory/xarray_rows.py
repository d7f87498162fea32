"""Rows of a variable of xarray, held in memory or by Dask, or read lazily from what it was opened from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.features_axis import axis_of_features
from rankme_stream.sources.memory.box_rows import BoxRows, refuse_packed
from rankme_stream.sources.memory.dask_rows import DaskRows
from rankme_stream.sources.memory.item_members import chosen_member, refuse_key


class LazyVariable:
    """Variable of xarray as boxes; what it is opened from reads and decodes them."""

    copies = 3  # stored numbers, decoded ones, and their mask
    lacking = ""

    def __init__(self, variable: Any, uri: str) -> None:
        self._variable, self.uri = variable, uri
        self.shape, self.dtype = variable.shape, variable.dtype
        self.names: Sequence[str | None] | None = [str(name) for name in variable.dims]
        steps = [variable.encoding.get("preferred_chunks", {}).get(name) for name in variable.dims]
        self.chunks: Sequence[Sequence[int]] | None = None
        if all(isinstance(step, int) for step in steps):
            self.chunks = [_chunks(n, step) for n, step in zip(self.shape, steps, strict=True)]

    def read(self, box: tuple[slice, ...]) -> Any:
        """Read a box; the variable keeps nothing of it."""
        return self._variable[box].data

    def stamp(self) -> None:
        """Return None: some of the numbers are hashed."""


def open_rows(thing: Any, options: ArrayOptions) -> BoxRows:
    """Open the rows of a DataArray, a Variable, or a variable of a Dataset."""
    uri = "<xarray>"
    if hasattr(thing, "data_vars"):
        thing = chosen_member(thing, list(thing.data_vars), options.key, uri)
    else:
        refuse_key(options.key, uri)
    name = getattr(thing, "name", None)
    uri = uri if name is None else f"{uri}::{name}"
    variable = getattr(thing, "variable", thing)
    refuse_packed(variable.attrs, uri, "open it with mask_and_scale=True, or apply xarray.decode_cf")
    options = replace(options, key=None)
    if variable.chunks is None:
        return BoxRows(LazyVariable(variable, uri), options)
    if len(variable.dims) >= 2:
        names = [str(name) for name in variable.dims]
        options = replace(options, features_axis=axis_of_features(options.features_axis, variable.shape, names, uri))
    return DaskRows(variable.data, options, uri)


def _chunks(length: int, step: int) -> list[int]:
    return [min(step, length - start) for start in range(0, length, step)]
