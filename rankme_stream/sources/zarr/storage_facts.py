"""How a zarr array is cut and coded, in words and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from rankme_stream.sources.storage import Storage
from rankme_stream.sources.zarr.codecs.chain import chunk_codecs
from rankme_stream.sources.zarr.grids.chunk_grid import ChunkGrid

_NO_COMPRESSION = ("bytes", "transpose", "crc32c")


def _n_keys(grid: ChunkGrid) -> int:
    """Return the number of keys of an array."""
    return prod(axis.n_chunks for axis in grid.axes)


def storage_of_grid(grid: ChunkGrid, zarr_format: int, codecs: Sequence[Any], n_bytes: int | None) -> Storage:
    """Return how an array is stored.

    Parameters
    ----------
    codecs
        Codecs in the order of encoding.
    n_bytes
        Bytes as stored, where they are known.
    """
    rows, columns = len(grid.units(0, grid.shape[0])), grid.n_inner_columns
    chunks = f"{rows * columns:,} of up to {_lengths(grid.chunk_shape)}"
    facts = [("chunks", chunks + (f", {columns:,} side by side along the features" if columns > 1 else ""))]
    n_requests = _n_keys(grid)
    if grid.inner is not None:
        n_requests += rows * columns  # the index of each shard, and its chunks
        facts.append(("shards", f"{_n_keys(grid):,} of up to {_lengths([axis.longest for axis in grid.axes])}"))
    names = [name.removeprefix("numcodecs.") for name, _ in chunk_codecs(codecs)]
    facts.append(("compression", ", ".join(name for name in names if name not in _NO_COMPRESSION) or "none"))
    if len(grid.axes) > 2 or not grid.has_features_last:
        axes = _lengths([axis.length for axis in grid.axes])
        order = "of the values" if grid.row_order is None else "in which the chunks are stored"
        facts.append(
            ("order", f"axes {axes}, axis {grid.features_axis} that of the features; rows in the order {order}")
        )
    return Storage(f"zarr v{zarr_format}", tuple(facts), n_bytes, n_requests)


def uncoded_bytes(grid: ChunkGrid, itemsize: int) -> int:
    """Return the bytes of all chunks of an array without compression, whole where they reach past the array."""
    return itemsize * prod(axis.length if axis.step == 0 else axis.n_chunks * axis.step for axis in grid.axes)


def _lengths(lengths: Sequence[int]) -> str:
    return " x ".join(f"{n:,}" for n in lengths)
