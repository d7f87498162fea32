"""Chunk grid of a zarr array from its metadata document, regular or rectilinear."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from rankme_stream.errors import SourceFormatError
from rankme_stream.sources.storage_order import Axis
from rankme_stream.sources.zarr.codecs.chain import codec_fields
from rankme_stream.sources.zarr.grids.chunk_grid import ChunkGrid
from rankme_stream.sources.zarr.grids.shard_index import shard_index

_MOST = 2**60  # values or chunks


def chunk_grid(metadata: Mapping[str, Any], features_axis: int, *, path: str, uri: str) -> ChunkGrid:
    """Return the grid in the metadata document (``zarr.json`` or ``.zarray``) of an array.

    Parameters
    ----------
    features_axis
        Number of the axis of the features; the number of axes where none is: each value is then a row of its own.
    path
        Path of the array in its store.
    uri
        Name for errors.

    Raises
    ------
    SourceFormatError
        For a grid or keys of an unsupported kind, or numbers that no array has.
    """
    folder = f"{path}/" if path else ""
    shape = _lengths(metadata["shape"], len(metadata["shape"]), uri, least=0)
    if metadata["zarr_format"] == 2:
        axes = _regular(shape, metadata["chunks"], uri)
        separator = str(metadata.get("dimension_separator") or ".")
        return _grid(axes, features_axis, None, (folder, separator), uri)
    axes = _axes(shape, metadata["chunk_grid"], uri)
    name, configuration = codec_fields(metadata.get("chunk_key_encoding", {"name": "default"}))
    if name not in ("default", "v2"):
        raise SourceFormatError(f"{uri} has chunk keys of the unsupported kind {name!r}: rewrite it")
    separator = str(configuration.get("separator", "/" if name == "default" else "."))
    names = folder + (f"c{separator}" if name == "default" else ""), separator
    codecs = [codec_fields(codec) for codec in metadata["codecs"]]
    inner_codecs = [codec_fields(codec)[0] for name, conf in codecs for codec in conf.get("codecs", ())]
    if (shards := [name for name, _ in codecs].count("sharding_indexed")) and (
        len(codecs) > 1 or "sharding_indexed" in inner_codecs
    ):
        raise SourceFormatError(
            f"{uri} has shards inside shards or other codecs, whose missing chunks cannot be detected: rewrite it"
        )
    return _grid(axes, features_axis, codecs[0][1] if shards else None, names, uri)


def drop_growth(metadata: Mapping[str, Any], grid: ChunkGrid, stop: int, uri: str) -> None:
    """Take out of a metadata document what changes when an array grows along the first axis of its rows.

    Parameters
    ----------
    grid
        Grid of the array when it was opened.
    stop
        Chunks before this row are compared.
    uri
        Name for errors.
    """
    axis = 1 if grid.features_axis == 0 else 0
    length = metadata["shape"].pop(axis)
    edges = metadata.get("chunk_grid", {}).get("configuration", {}).get("chunk_shapes", ())
    if edges and isinstance(edges[axis], list):
        last = grid.keys.coordinates(grid.keys.find(stop - 1))[0]
        edges[axis] = Axis(length, _runs(length, edges[axis], uri)).runs(last + 1)


def with_regular_grid(document: bytes) -> bytes:
    """Return a metadata document in which a regular grid stands for a rectilinear one.

    zarr-python reads a rectilinear grid from release 3.2 on, if a setting allows it. Here it opens the array, and its
    chunks are found by the grid in the document as it is stored.
    """
    if b"rectilinear" not in document:
        return document
    metadata = json.loads(document)
    grid = metadata.get("chunk_grid") if isinstance(metadata, dict) else None
    if not isinstance(grid, dict) or grid.get("name") != "rectilinear":
        return document
    edges = [one if isinstance(one, list) else [one] for one in grid["configuration"]["chunk_shapes"]]
    firsts = [one[0][0] if one and isinstance(one[0], list) else one[0] if one else 1 for one in edges]
    shape = [first if type(first) is int and first > 0 else 1 for first in firsts]  # others are refused by their number
    return json.dumps(metadata | {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}}}).encode()


def _axes(shape: tuple[int, ...], grid: Mapping[str, Any], uri: str) -> list[Axis]:
    """Return the axes of an array of zarr v3, cut at its keys."""
    name, configuration = codec_fields(grid)
    if name == "regular":
        return _regular(shape, configuration.get("chunk_shape", ()), uri)
    if name != "rectilinear" or configuration.get("kind") != "inline":
        raise SourceFormatError(f"{uri} has a chunk grid of the unsupported kind {name!r}: rewrite it")
    edges = configuration["chunk_shapes"]
    if len(edges) != len(shape):
        raise SourceFormatError(f"{uri} declares chunks along {len(edges)} axes, and has {len(shape)}: rewrite it")
    return [Axis(length, _runs(length, one, uri)) for length, one in zip(shape, edges, strict=True)]


def _runs(length: int, edges: Any, uri: str) -> list[tuple[int, int]]:
    """Return length and number of chunks, run by run: all of one length, or a list of lengths and ``[length, count]``.

    Raises
    ------
    SourceFormatError
        If they are no positive numbers, or do not reach to the end of the axis.
    """
    if not isinstance(edges, list):
        return [(_lengths([edges], 1, uri)[0], 1)]
    runs = [_lengths(edge if isinstance(edge, list) else [edge, 1], 2, uri) for edge in edges]
    if not runs or not length <= sum(size * count for size, count in runs) < _MOST:
        raise SourceFormatError(f"{uri} declares chunks that do not cover an axis of length {length:,}: rewrite it")
    return [(size, count) for size, count in runs]


def _regular(shape: tuple[int, ...], chunks: Sequence[int], uri: str) -> list[Axis]:
    steps = _lengths(chunks, len(shape), uri)
    return [Axis.regular(length, step) for length, step in zip(shape, steps, strict=True)]


def _lengths(lengths: Sequence[int], number: int, uri: str, *, least: int = 1) -> tuple[int, ...]:
    """Return lengths that fit 64 bits, as those of arrays and chunks that exist do; refuse others."""
    found = tuple(lengths)
    if len(found) != number or not all(type(n) is int and least <= n < _MOST for n in found):
        raise SourceFormatError(f"{uri} declares {found}, not {number} positive lengths below 2^60: rewrite it")
    return found


def _grid(
    axes: list[Axis], features_axis: int, sharding: Mapping[str, Any] | None, names: tuple[str, str], uri: str
) -> ChunkGrid:
    """Return a grid whose numbers fit 64 bits; refuse others.

    Parameters
    ----------
    sharding
        Configuration of the sharding codec; None without shards.
    names
        Prefix and separator of keys.
    """
    if names[1] not in ("/", "."):
        raise SourceFormatError(f"{uri} has chunk keys with the separator {names[1]!r}: rewrite its metadata")
    is_line, inner, index = features_axis == len(axes), None, None
    if is_line:
        axes = [*axes, Axis.regular(1, 1)]
    if sharding is not None:
        inner = _lengths(sharding["chunk_shape"], len(axes) - is_line, uri) + (1,) * is_line
        for axis, length in zip(axes, inner, strict=True):
            if any(stored % length for stored in axis.lengths()):
                raise SourceFormatError(
                    f"{uri} declares shards of length {axis.longest:,}, which chunks of {length:,} do not fill: "
                    "rewrite it"
                )
        index = shard_index([axis.longest // n for axis, n in zip(axes, inner, strict=True)], sharding, uri)
    lengths, longest = tuple(axis.length for axis in axes), tuple(axis.longest for axis in axes)
    n_chunks = prod(-(-axis.length // n) for axis, n in zip(axes, inner, strict=True)) if inner else 1
    if max(prod(lengths), prod(axis.n_chunks for axis in axes), n_chunks, prod(longest)) >= _MOST:
        raise SourceFormatError(
            f"{uri} declares shape {lengths} in chunks of {longest}, more than 2^60 values: rewrite its metadata"
        )
    return ChunkGrid(tuple(axes), features_axis, inner, *names, index, is_line)
