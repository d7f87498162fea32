"""Codecs of arrays to arrays that zarr has from release 3.2 on, called one at a time on arrays of known size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr.codecs
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.dtype import get_data_type_from_native_dtype
from zarr.core.sync import sync

from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.zarr.codecs.chain import CODEC_PACKAGES
from rankme_stream.sources.zarr.codecs.unpack import BytesCodec, put

ARRAY_CODECS = {"cast_value": "CastValue", "scale_offset": "ScaleOffset"}  # not what others register by these names
_WORKING_BYTES = 32  # for each value: three of int64, and the result
_UINT64_BYTES = 144  # for each value: zarr takes three Python integers


def fill_value(metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> Any:
    """Return the fill value of an array of zarr v3, which some codecs check."""
    return get_data_type_from_native_dtype(dtype).from_json_scalar(metadata["fill_value"], zarr_format=3)


def array_codec(
    name: str, configuration: Mapping[str, Any], n_values: int, dtype: np.dtype[Any], fill: Any
) -> tuple[BytesCodec, np.dtype[Any], Any]:
    """Return a codec of `ARRAY_CODECS`, and the dtype and fill value of what it stores; ``dtype`` is what it returns.

    Raises
    ------
    ImportError
        If the codec needs a package that is not installed, or a later zarr.
    ValueError, TypeError, ArithmeticError
        If zarr refuses the configuration for such values.
    """
    codec_class = getattr(zarr.codecs, ARRAY_CODECS[name], None)
    if codec_class is None:
        raise ImportError(f"{name!r} is needed: pip install {CODEC_PACKAGES[name]}")
    codec = codec_class.from_dict({"name": name, "configuration": dict(configuration)})
    prototype: Any = default_buffer_prototype()
    data_type = get_data_type_from_native_dtype(dtype)
    spec = ArraySpec((n_values,), data_type, fill, ArrayConfig.from_dict({}), prototype)
    codec.validate(shape=spec.shape, dtype=data_type, chunk_grid=None)
    stored_spec = codec.resolve_metadata(spec)
    stored: np.dtype[Any] = stored_spec.dtype.to_native_dtype()

    def unpack(encoded: Array, out: Array) -> int:
        buffer = prototype.nd_buffer.from_ndarray_like(encoded.view(stored))
        (decoded,) = sync(codec.decode([(buffer, spec)]))
        return put(np.ascontiguousarray(decoded.as_ndarray_like()).view(np.uint8), out)

    working = _UINT64_BYTES if dtype == np.uint64 else _WORKING_BYTES
    return (
        BytesCodec(
            unpack, lambda n: n // dtype.itemsize * stored.itemsize, True, scratch=-(-working // dtype.itemsize)
        ),
        stored,
        stored_spec.fill_value,
    )
