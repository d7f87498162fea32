"""Opening of a path, an array or a store as a source of rows."""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from rankme_stream.errors import SourceFormatError, SourceNotFoundError, UsageError, argument
from rankme_stream.numerics.devices.registry import is_array
from rankme_stream.sources.array import ArraySource
from rankme_stream.sources.array_options import ArrayOptions, Opening
from rankme_stream.sources.concat import ConcatSource, natural_key
from rankme_stream.sources.npy import NpySource
from rankme_stream.sources.source import Source
from rankme_stream.sources.zarr import ZarrSource, is_pattern, is_zarr_node, matching_arrays


def open_source(source: object, **options: Any) -> Source:
    """Open rows for reading.

    Parameters
    ----------
    source
        ``store.zarr``, ``store.zarr::group/array`` or ``file.npy`` as a string or path; an array of two dimensions of
        numpy or of a library that shares memory by DLPack (torch, CuPy, JAX); a ``zarr.Array``; or a `Source`, which is
        returned unchanged. Several arrays as one: a list of these, whose rows follow one another in its order; or a
        shell-style pattern in a path on this machine or behind ``::``, such as ``store.zarr::utm*/embeddings``, whose
        arrays follow one another in natural order (``_2`` before ``_10``).
    options
        The fields of `ArrayOptions`, for what is stored.

    Raises
    ------
    UsageError
        If an option does not apply to such a source.
    SourceError
        If nothing is there, it may not be read, or it is not a two-dimensional array of numbers.
    """
    if isinstance(source, Opening):
        return open_source(source.source, **asdict(source.options) | options)
    chosen = ArrayOptions(**options)
    if isinstance(source, list | tuple):
        return _joined(source, chosen)
    if (found := matching_files(source)) is not None:
        return _joined(found, chosen, str(source))
    if (found := matching_arrays(source, chosen.path)) is not None:
        uri = str(source) if chosen.path is None else f"{source}::{chosen.path}"
        return _joined(sorted(found, key=_natural), replace(chosen, path=None), uri)
    if isinstance(source, str | os.PathLike):
        uri = os.fspath(source)
        if not isinstance(uri, str):
            raise SourceFormatError(f"{uri!r} is a path of bytes; a string is needed")
        if not uri.endswith(".npy"):
            return ZarrSource(uri, chosen)
        _refuse_options(replace(chosen, features_axis=None))
        return NpySource(uri, chosen)
    if is_zarr_node(source):
        return ZarrSource(source, chosen)
    if is_array(source) and not isinstance(source, Source):
        _refuse_options(replace(chosen, features_axis=None))
        return ArraySource(source, features_axis=chosen.features_axis)
    _refuse_options(chosen)
    if isinstance(source, Source):
        return source
    raise SourceFormatError(
        f"rows cannot be read from a {type(source).__name__}; a path, an array, a zarr.Array or a Source is needed"
    )


def _joined(parts: Sequence[Any], options: ArrayOptions, uri: str | None = None) -> ConcatSource:
    """Return sources, each opened with the options, as one; they share the memory that chunks are decoded in."""
    opened, buffers = [open_source(part, **asdict(options)) for part in parts], threading.local()
    for one in opened:
        if isinstance(one, ZarrSource):
            one.use_buffers(buffers)
    return ConcatSource(opened, uri)


def matching_files(source: object) -> list[str] | None:
    """Return the paths that a pattern of files or stores on this machine matches, in natural order; None for others.

    Raises
    ------
    SourceNotFoundError
        If there are none.
    """
    uri = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    if not isinstance(uri, str) or not is_pattern(uri):
        return None
    location, separator, path = uri.partition("::")
    if "://" in uri or not is_pattern(location) or os.path.lexists(location):
        return None
    found = sorted(glob.glob(location), key=natural_key)
    if not found:
        raise SourceNotFoundError(f"nothing matches {location}: check the pattern")
    return [one + separator + path for one in found]


def _natural(part: Any) -> tuple[tuple[bool, int, str], ...]:
    return natural_key(part if isinstance(part, str) else part.path)


def _refuse_options(options: ArrayOptions) -> None:
    """Refuse options of arrays for a source that has none."""
    for name, value in asdict(options).items():
        if value is not None:
            raise UsageError(f"{argument(name)} is for an array that is stored, and these rows are not")


def is_blocks(source: object) -> bool:
    """Return whether ``source`` is an iterable of blocks of rows rather than rows that can be read in any order."""
    is_rows = isinstance(source, str | bytes | os.PathLike | Source) or hasattr(source, "__array__")
    return isinstance(source, Iterable) and not is_rows and not is_array(source) and not is_zarr_node(source)
