"""Files of numbers without a header: type, width and offset are the caller's to say."""

from __future__ import annotations

import re

from rankme_stream.errors import CorruptChunkError, SourceFormatError, UsageError, argument
from rankme_stream.numerics.dtypes import named_type
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.dense.dense_rows import DenseRows
from rankme_stream.sources.dense.layout import DenseLayout
from rankme_stream.sources.dense.named_arrays import refuse_name
from rankme_stream.sources.stores.stored_file import StoredFile
from rankme_stream.sources.value_types import checked_type

_BIG_ENDIAN = re.compile(r">[iuf][248]")


def open_rows(file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> DenseRows:
    """Open rows that follow one another from an offset to the end of a file.

    Raises
    ------
    UsageError
        If the options lack type or width.
    SourceError, StorageError
        If the file cannot be read, or the rows do not fill it.
    """
    refuse_name(inside, options, file.uri)
    with file.opened() as opened:
        layout = layout_of(opened.n_bytes, options, file.uri, is_scales=is_scales)
    return DenseRows(file, layout, options, is_scales=is_scales)


def layout_of(n_bytes: int, options: ArrayOptions, uri: str, *, is_scales: bool = False) -> DenseLayout:
    """Return where the rows of a file of so many bytes lie; raises as ``open_rows``."""
    name = checked_type(options) or _type_of_ending(uri)
    width = options.width or (1 if is_scales else None)
    if name is None or width is None:
        lacking = [argument(one) for one, held in (("dtype", name), ("width", width)) if held is None]
        raise UsageError(
            f"{uri} holds numbers without a header: give {' and '.join(lacking)}"
            + (", the number of features of a row" if width is None else ", the type of its numbers, such as float32")
            + f", and {argument('offset')} if other bytes stand before the first"
        )
    dtype = named_type(name).dtype.newbyteorder(">" if _BIG_ENDIAN.fullmatch(str(options.dtype).strip()) else "<")
    offset = options.offset or 0
    n_rows, rest = divmod(n_bytes - offset, width * dtype.itemsize)
    if n_rows <= 0:
        raise SourceFormatError(
            f"{uri} holds {n_bytes:,} bytes, and a row of {width:,} {name} from byte {offset:,} needs "
            f"{width * dtype.itemsize:,}"
        )
    if rest:
        raise CorruptChunkError(
            f"{uri} holds {n_bytes:,} bytes, which rows of {width:,} {name} from byte {offset:,} do not fill: {rest:,} "
            f"are left over; check {argument('width')}, {argument('dtype')} and {argument('offset')}, or copy it again"
        )
    header = f"{name} {width} {offset}".encode()
    return DenseLayout((n_rows, width), dtype, offset, type_name=name, header=header)


def _type_of_ending(uri: str) -> str | None:
    """Return the number type that the ending of a name tells; None for others."""
    found = re.search(r"\.(bf16|f16|f32|f64)(?:\?[^/]*)?$", uri.lower())
    return {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64"}[found[1]] if found else None
