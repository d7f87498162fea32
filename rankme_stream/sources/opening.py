"""Opening of a path, an array or a store as a source of rows."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from rankme_stream.errors import SourceFormatError, SourceNotFoundError, UsageError, argument
from rankme_stream.numerics.devices.registry import is_array
from rankme_stream.sources.address import split_address
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions, Opening, checked_options
from rankme_stream.sources.bit_rows import BitRows
from rankme_stream.sources.concat import ConcatSource
from rankme_stream.sources.formats import format_at, format_of
from rankme_stream.sources.memory.item_members import chosen_member
from rankme_stream.sources.memory.library_objects import READ, address_of, is_object_of_rows, is_samples, rows_in_memory
from rankme_stream.sources.scaled_rows import ScaledRows, StoredArray
from rankme_stream.sources.shards import Shards, shards_of, shards_on_server
from rankme_stream.sources.source import Source
from rankme_stream.sources.stores.folder_listing import is_url
from rankme_stream.sources.stores.remote_faults import without_secrets
from rankme_stream.sources.stores.stored_files import stored_file
from rankme_stream.sources.value_types import checked_rule
from rankme_stream.sources.zarr import ZarrSource, is_zarr_node, matching_arrays

_OPENED_AT_ONCE = 32  # files of servers, each by a request


def open_source(source: object, **options: Any) -> Source:
    """Open rows for reading.

    Parameters
    ----------
    source
        ``store.zarr``, ``store.zarr::group/array``, ``file.npy``, or another file of `FORMATS`, with ``::`` and the
        name of an array in it where it holds several, as a string or path; a two-dimensional array of numpy or of a
        library that shares memory by DLPack (torch, CuPy, JAX); a ``zarr.Array``; an array, sparse matrix, frame,
        series or table of Dask, xarray, h5py, SciPy, pandas, polars, pyarrow or ``datasets``; or a `Source`, which is
        returned unchanged. Several arrays as one: a list of these, whose rows follow one another in its order; a folder
        of files whose names differ in numbers alone; or a shell-style pattern before or behind ``::``, such as
        ``folder/*.npy`` or ``store.zarr::utm*/embeddings``. The arrays of these two follow one another in natural order
        (``_2`` before ``_10``).
    options
        The fields of `ArrayOptions`, for what is stored.

    Raises
    ------
    UsageError
        If there is no such option, or it does not apply to such a source.
    SourceError
        If nothing is there, it may not be read, it is not an array of numbers, or it is not clear which axis is the
        features.
    """
    if isinstance(source, Opening):
        given = {name: value for name, value in options.items() if value is not None}
        return open_source(source.source, **asdict(source.options) | given)
    chosen = checked_options(options)
    if isinstance(source, list | tuple):
        return _joined([(part, chosen) for part in source])
    if (shards := shards_of(source, chosen.path)) is not None:
        return _joined_files(shards, chosen)
    if not _is_file(source) and (found := matching_arrays(source, chosen.path)) is not None:
        return _joined([(found.source, replace(chosen, path=path)) for path in found.paths], found.uri)
    if isinstance(source, str | os.PathLike) and not isinstance(os.fspath(source), str):
        raise SourceFormatError(f"{os.fspath(source)!r} is a path of bytes; a string is needed")
    if isinstance(source, str | os.PathLike) or is_zarr_node(source):
        _refuse_key(chosen)
        if isinstance(source, str) and is_url(source) and not _is_file(source):
            try:
                return _decoded(ZarrSource(source, chosen, looks_around=False), chosen)
            except SourceNotFoundError:
                if (shards := shards_on_server(source, chosen.path)) is not None:
                    return _joined_files(shards, chosen)
        return _decoded(_stored(source, chosen), chosen)
    if (address := address_of(source)) is not None and _is_hdf5(address):
        _refuse_key(chosen)  # its chunks are read side by side, and its attributes are applied
        return open_source(address, **options)
    if isinstance(source, Mapping) and not is_object_of_rows(source):  # a dict, a file of h5py, an .npz of numpy
        member = chosen_member(source, list(source), chosen.key, f"a {type(source).__name__}")
        return open_source(member, **options | {"key": None})
    held = rows_in_memory(source, chosen)
    if held is None:
        raise SourceFormatError(f"rows cannot be read from a {type(source).__name__}; {READ} is needed")
    return held


def _is_file(source: object) -> bool:
    """Return whether a source is named like a file of a format, in which a name is no pattern."""
    text = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    return isinstance(text, str) and format_of(split_address(text)[0]) is not None


def _is_hdf5(address: str) -> bool:
    """Return whether an address names an HDF5 file by its ending."""
    found = format_of(split_address(address)[0])
    return found is not None and found.name == "HDF5"


def _stored(source: Any, options: ArrayOptions, scaled: tuple[int, int] | None = None) -> StoredArray:
    """Return the array at an address, or of zarr; ``scaled`` as in `ZarrSource`, of an array of scales."""
    if isinstance(source, str | os.PathLike):
        location, inside = split_address(os.fspath(source))
        found = format_at(location)
        if found is None or not found.is_bare:
            _refuse_layout(options, location)
        if found is not None:
            inside = inside if options.path is None else options.path
            return found.open(stored_file(location), inside, options, is_scales=scaled is not None)
    else:
        _refuse_layout(options, "an array of zarr")
    return ZarrSource(source, options, scaled=scaled)


def _decoded(source: StoredArray, options: ArrayOptions) -> Source:
    """Return the rows of an array whose numbers are packed bits, or are scaled by another array."""
    rule = checked_rule(options)
    if rule is not None and rule.kind == "bits":
        return BitRows(source, rule.width)
    if source.scales is None:
        return source
    where = Opening(source.scales.path, NO_OPTIONS)
    if not options.names_scales_elsewhere:
        where = source.argument_of(source.scales.path)
    wanted = replace(where.options, nodata=source.scales.nodata)
    scales = _stored(where.source, wanted, (source.n_axes, source.axis))
    if scales.row_order != source.row_order:
        raise SourceFormatError(
            f"{scales.uri} is cut into chunks otherwise than the rows of {source.uri}, and comes in another order: "
            "write it in chunks of the same lengths along these axes"
        )
    return ScaledRows(source, scales, source.scales.named_by)


def _joined(parts: Sequence[tuple[Any, ArrayOptions]], uri: str | None = None) -> ConcatSource:
    """Return sources, each opened with its options, as one; they share the memory that chunks are decoded in."""
    for _, options in parts:
        _refuse_scales_of_one(options)
    sources = (open_source(part, **asdict(options)) for part, options in parts)
    path = next((options.path for _, options in parts), None)
    opened, buffers = list(_of_one_name([part for part, _ in parts], sources, path)), threading.local()
    for one in opened:
        if isinstance(one, ZarrSource):
            one.use_buffers(buffers)
    return ConcatSource(opened, uri)


def _joined_files(shards: Shards, options: ArrayOptions) -> ConcatSource:
    """Return files as one source; those of servers are opened several at once."""
    _refuse_scales_of_one(options)
    _refuse_key(options)

    def opened(address: str) -> Source:
        if format_of(split_address(address)[0]) is None:
            return open_source(address, **asdict(options))
        return _decoded(_stored(address, options), options)

    if not is_url(shards.addresses[0]):
        found = _of_one_name(shards.addresses, map(opened, shards.addresses), options.path)
        return ConcatSource(found, shards.uri, shards.remarks)
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        found = _of_one_name(shards.addresses, pool.map(opened, shards.addresses), options.path)
        return ConcatSource(found, shards.uri, shards.remarks)


def _of_one_name(addresses: Iterable[Any], sources: Iterable[Source], path: str | None) -> Iterator[Source]:
    """Yield sources; refuse a file in which an array of another name was found than in the first, with none given."""
    first: Source | None = None
    for address, source in zip(addresses, sources, strict=True):
        name = split_address(source.uri)[1] if path is None and "::" in source.uri else ""
        if name and _is_file(address) and not split_address(os.fspath(address))[1]:
            first = source if first is None else first
            if name != (usual := split_address(first.uri)[1]):
                raise SourceFormatError(
                    f"{source.uri} is the only array there, and in {first.uri} it is {usual}: name the one that all "
                    f"parts of the dump hold, such as '{split_address(source.uri)[0]}::{usual}'"
                )
        yield source


def _refuse_layout(options: ArrayOptions, place: str) -> None:
    """Refuse what a caller says of the rows of a file that says it itself."""
    for name, value in (("width", options.width), ("offset", options.offset)):
        if value is not None:
            raise UsageError(
                f"{argument(name)} is for files of numbers without a header, whose names end in .bin or the like; "
                f"{without_secrets(place)} is none of them: leave it out"
            )


def _refuse_key(options: ArrayOptions) -> None:
    if options.key is not None:
        raise UsageError(f"key is for an object in memory: name the array as {argument('path')}")


def _refuse_scales_of_one(options: ArrayOptions) -> None:
    if options.scales is not None:
        raise UsageError(
            f"{argument('scales')} names the scales of one array, and several are read as one: score each by itself, "
            "or declare the scales of each in its metadata"
        )


def is_blocks(source: object) -> bool:
    """Return whether ``source`` is an iterable of blocks of rows rather than rows that can be read in any order."""
    if is_samples(source):
        return True
    is_rows = isinstance(source, str | bytes | os.PathLike | Mapping | Source) or hasattr(source, "__array__")
    is_rows = is_rows or is_array(source) or is_zarr_node(source) or is_object_of_rows(source)
    return isinstance(source, Iterable) and not is_rows
