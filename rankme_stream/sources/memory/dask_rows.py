"""Rows of a Dask array, computed block by block: by threads here, or by the workers that hold its blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics import machine
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.memory.box_rows import BoxRows
from rankme_stream.sources.memory.held_blocks import ComputedBlock


class DaskArray:
    """Dask array as boxes; blocks that lie on a cluster are computed there and brought here."""

    copies = 2  # the blocks, and the box that they are joined in
    lacking = ""
    names: Sequence[str | None] | None = None

    def __init__(self, array: Any, uri: str) -> None:
        self._array, self.uri = array, uri
        if any(math.isnan(length) for lengths in array.chunks for length in lengths):
            raise SourceFormatError(
                f"{uri} has blocks of unknown length: call array.compute_chunk_sizes() first, which computes them once"
            )
        self.shape, self.dtype, self.chunks = array.shape, array.dtype, array.chunks

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(machine.cores(), thread_name_prefix="rankme-dask")

    @cached_property
    def _client(self) -> Any:
        """The client of the cluster that holds blocks of the array; None where all is computed from the start."""
        for layer in self._array.__dask_graph__().layers.values():
            for value in list(getattr(layer, "mapping", {}).values())[:1]:
                if type(value).__module__.partition(".")[0] == "distributed":
                    return value.client
        return None

    def read(self, box: tuple[slice, ...]) -> Any:
        """Compute the blocks of a box, each once, and return the box."""
        part = self._array[box]
        if self._client is not None:
            return self._client.compute(part, sync=True)
        return part.compute(scheduler="threads", pool=self._pool)

    def stamp(self) -> str:
        """Return the name of the array, which Dask makes of what it is computed from."""
        return str(self._array.name)


class DaskRows(BoxRows):
    """Rows of a Dask array; parameters and errors as of `BoxRows`."""

    def __init__(self, array: Any, options: ArrayOptions, uri: str = "<dask.Array>") -> None:
        super().__init__(DaskArray(array, uri), options)
        self._blocks = array

    def blocks_to_compute(self, start: int, stop: int) -> list[ComputedBlock]:
        """Return the whole blocks that hold rows ``[start, stop)``: workers of a cluster compute them for a pass."""
        order = [*(axis for axis in range(len(self._array.shape)) if axis != self.axis), self.axis]
        found = []
        for chunk in self._order.chunks(start, stop):
            first, end = self._order.start(chunk), self._order.start(chunk + 1)
            (box,) = self.boxes(first, end)
            found.append(ComputedBlock(first, end, self._blocks[box].transpose(order)))
        return found


def open_rows(array: Any, options: ArrayOptions) -> DaskRows:
    """Open the rows of a Dask array."""
    return DaskRows(array, options)
