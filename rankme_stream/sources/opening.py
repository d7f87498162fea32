"""Opening of a path, an array or a store as a source of rows."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rankme_stream.errors import SourceFormatError, UsageError, argument
from rankme_stream.numerics.devices.registry import is_array
from rankme_stream.sources.array import ArraySource
from rankme_stream.sources.array_options import ArrayOptions, Opening
from rankme_stream.sources.bit_rows import BitRows
from rankme_stream.sources.npy import NpySource
from rankme_stream.sources.scaled_rows import ScaledRows
from rankme_stream.sources.source import Source
from rankme_stream.sources.value_types import checked_rule
from rankme_stream.sources.zarr import ZarrSource, is_zarr_node


def open_source(source: object, **options: Any) -> Source:
    """Open rows for reading.

    Parameters
    ----------
    source
        ``store.zarr``, ``store.zarr::group/array`` or ``file.npy`` as a string or path; a two-dimensional array of
        numpy or of a library that shares memory by DLPack (torch, CuPy, JAX); a ``zarr.Array``; or a `Source`, which is
        returned unchanged.
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
    chosen = ArrayOptions(**options).absolute()
    stored = _open_stored(source, chosen)
    if stored is not None:
        return _decoded(stored, chosen)
    _refuse_options(chosen)
    if isinstance(source, Source):
        return source
    if is_array(source):
        return ArraySource(source)
    raise SourceFormatError(
        f"rows cannot be read from a {type(source).__name__}; a path, an array, a zarr.Array or a Source is needed"
    )


def _open_stored(source: object, options: ArrayOptions, *, takes_line: bool = False) -> ZarrSource | NpySource | None:
    """Open an array that is stored; return None for other things."""
    if is_zarr_node(source):
        return ZarrSource(source, options, takes_line=takes_line)
    if not isinstance(source, str | os.PathLike):
        return None
    uri = os.fspath(source)
    if not isinstance(uri, str):
        raise SourceFormatError(f"{uri!r} is a path of bytes; a string is needed")
    kind = NpySource if uri.endswith(".npy") else ZarrSource
    return kind(uri, options, takes_line=takes_line)


def _decoded(source: ZarrSource | NpySource, options: ArrayOptions) -> Source:
    """Return the rows of an array whose numbers are packed bits, or are scaled by another array."""
    rule = checked_rule(options)
    if rule is not None and rule.kind == "bits":
        return BitRows(source, rule.width)
    if (scales := source.scales) is None:
        return source
    if isinstance(source, NpySource) or options.names_scales_elsewhere:
        where = scales.path
    else:
        where = source.argument_of(scales.path)
    opened = _open_stored(where, ArrayOptions(nodata=scales.nodata), takes_line=True)
    assert opened is not None
    return ScaledRows(source, opened, scales.named_by)


def _refuse_options(options: ArrayOptions) -> None:
    """Refuse options of arrays for a source that has none."""
    for name, value in asdict(options).items():
        if value is not None:
            raise UsageError(f"{argument(name)} is for an array that is stored, and these rows are not")


def is_blocks(source: object) -> bool:
    """Return whether ``source`` is an iterable of blocks of rows rather than rows that can be read in any order."""
    is_rows = isinstance(source, str | bytes | os.PathLike | Source) or hasattr(source, "__array__")
    return isinstance(source, Iterable) and not is_rows and not is_array(source) and not is_zarr_node(source)
