"""Filters of HDF5 as codecs: most as zarr has them, others through HDF5 itself, on bytes that lie in memory."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from itertools import count
from typing import Any, NamedTuple

import h5py
import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.remote_faults import in_one_line
from rankme_stream.sources.zarr.codecs.unpack import BytesCodec, longest_packed

_REPACK = "repack it, as by h5repack -f GZIP=1"
_ZARR = {1: "zlib", 3: "fletcher32", 307: "bz2", 32001: "blosc", 32015: "zstd"}
_SHUFFLE, _LZF, _LZ4, _BITSHUFFLE = 2, 32000, 32004, 32008
_MOST_FILTERS = 16
_numbers = count()  # of files in memory, whose names must differ


class Filter(NamedTuple):
    """Filter of a dataset: its registered number, its values, and its name for messages."""

    code: int
    values: tuple[int, ...]
    name: str


def configurations(filters: Sequence[Filter], dtype: np.dtype[Any], chunk: Sequence[int], uri: str) -> list[Any]:
    """Return the filters as configurations of codecs.

    Parameters
    ----------
    dtype, chunk
        Type of the values, and shape of a chunk, as the file has them.

    Raises
    ------
    SourceFormatError
        For a filter that nothing here decodes, with the package that has it or another remedy.
    """
    if len(filters) > _MOST_FILTERS:
        raise SourceFormatError(f"{uri} has more than {_MOST_FILTERS} filters: {_REPACK}")
    found: list[dict[str, Any]] = []
    for one in filters:
        if one.code in _ZARR:
            found.append({"id": _ZARR[one.code]})
        elif one.code == _SHUFFLE and one.values and one.values[0] > 0:
            found.append({"id": "shuffle", "elementsize": one.values[0]})
        elif one.code == _LZF and _lzf() is not None:
            found.append({"id": "lzf"})
        elif _is_available(one.code):
            found.append({"id": "hdf5", "filter": [one.code, *one.values], "dtype": dtype.str, "chunk": list(chunk)})
            _check(one, dtype, tuple(chunk), uri)
        else:
            name = one.name or "without a name"
            raise SourceFormatError(
                f"{uri} is packed by the filter {one.code} of HDF5 ({name}), which is not installed: pip install "
                f"hdf5plugin, or {_REPACK}"
            )
    return found


def _check(one: Filter, dtype: np.dtype[Any], chunk: tuple[int, ...], uri: str) -> None:
    """Refuse a filter that would decode here by other values than those in the file."""
    try:
        _dataset_in_memory(one.code, one.values, dtype, chunk)
    except (ValueError, OSError, RuntimeError) as error:
        raise SourceFormatError(
            f"{uri} is packed by the filter {one.code} of HDF5 ({one.name}), which cannot decode it here "
            f"({in_one_line(error)}): {_REPACK}"
        ) from error


def _is_available(code: int) -> bool:
    """Return whether HDF5 here has a filter, by a plugin if need be."""
    if not h5py.h5z.filter_avail(code):
        try:
            import_module("hdf5plugin")  # registers its filters
        except ImportError:
            return False
    return bool(h5py.h5z.filter_avail(code))


def _lzf() -> Callable[..., int] | None:
    """Return the decoder of LZF in h5py, which takes the size that there is; None in a build that has none inside."""
    try:
        decoder = ctypes.CDLL(h5py.h5z.__file__).lzf_decompress
    except (OSError, AttributeError):
        return None
    decoder.argtypes = [ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_uint]
    decoder.restype = ctypes.c_uint
    return decoder


def _lzf_codec(configuration: Mapping[str, Any]) -> BytesCodec:
    decoder = _lzf()
    assert decoder is not None  # or it had not been named

    def unpack(encoded: Array, out: Array) -> int:
        source, target = (one.__array_interface__["data"][0] for one in (encoded, out))
        if not (n_bytes := decoder(source, len(encoded), target, len(out))):
            raise ValueError("not LZF, or more than fits")
        return n_bytes

    return BytesCodec(unpack, longest_packed)


def _hdf5_codec(configuration: Mapping[str, Any]) -> BytesCodec:
    """Return the codec of any filter that HDF5 has here: it decodes a chunk of a file in memory."""
    (code, *values), dtype = configuration["filter"], np.dtype(configuration["dtype"])
    shape, held = tuple(configuration["chunk"]), threading.local()

    def unpack(encoded: Array, out: Array) -> int:
        if code in (_LZ4, _BITSHUFFLE) and len(encoded) >= 8 and (code == _LZ4 or (len(values) > 4 and values[4])):
            n_bytes = int.from_bytes(encoded[:8].tobytes(), "big")  # which the filter would allocate
            if n_bytes != len(out):
                raise ValueError(f"{n_bytes:,} bytes where {len(out):,} were expected")
        try:
            if not hasattr(held, "dataset"):
                held.dataset = _dataset_in_memory(code, values, dtype, shape)
            dataset = held.dataset
            dataset.write_direct_chunk((0,) * len(shape), encoded.tobytes())
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, out.view(dtype).reshape(shape))
        except (OSError, RuntimeError) as error:
            raise ValueError(str(error)) from None
        return len(out)

    return BytesCodec(unpack, longest_packed, scratch=2, working=2**20)


def _dataset_in_memory(code: int, values: Sequence[int], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """Return a dataset of one chunk in a file in memory, which goes with the dataset.

    Raises
    ------
    ValueError
        If the filter, which changes its values when a dataset is made, does not come to those in the file.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(backing_store=False)
    access.set_fclose_degree(h5py.h5f.CLOSE_WEAK)
    file = h5py.h5f.create(f"rankme {next(_numbers)}".encode(), fapl=access)
    uncached = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    uncached.set_chunk_cache(1, 0, 0.0)
    space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(dtype)
    for n_own in (0, 3):  # values that the filter puts before those that it is given
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(shape)
        properties.set_filter(code, h5py.h5z.FLAG_MANDATORY, tuple(values[n_own:]))
        dataset = h5py.h5d.create(file, f"chunk {n_own}".encode(), kind, space, properties, dapl=uncached)
        if list(dataset.get_create_plist().get_filter(0)[2]) == list(values):
            return dataset
    raise ValueError(f"the filter {code} of HDF5 is here of another release")


CODECS: Mapping[str, Callable[[Mapping[str, Any]], BytesCodec]] = {"lzf": _lzf_codec, "hdf5": _hdf5_codec}
