"""Decoder of the chunks of one zarr array, held to the sizes that its metadata give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any

import numcodecs
import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.zarr.codecs.array_codecs import ARRAY_CODECS, array_codec, fill_value
from rankme_stream.sources.zarr.codecs.chain import REWRITE, chunk_codecs, codec_chain
from rankme_stream.sources.zarr.codecs.unpack import BYTES_CODECS, BytesCodec, pcodec, put

_MOST_CODECS = 16
_MOST_SHAPES = 256  # whose decoders are kept
_LONGEST_TEXT = 4096  # bytes of a text of variable length, on average over a chunk
_FLOAT64_BYTES = 8

_Fields = Sequence[tuple[str, Mapping[str, Any]]]  # name and configuration of codecs
Codecs = Mapping[str, Callable[[Mapping[str, Any]], BytesCodec]]  # by name; each takes its configuration


_NONE: Codecs = {}


class ChunkDecoder:
    """Codecs of a chunk, called one after another; none may produce more bytes than the metadata give it.

    Parameters
    ----------
    metadata
        Metadata document (``zarr.json`` or ``.zarray``) of the array.
    shape
        Shape of a chunk, or of a chunk inside a shard.
    dtype
        Type of the values as numpy reads them from the metadata: with the byte order of zarr v2; of objects or of
        numpy's own strings for text of variable length.
    uri
        Name for errors.
    more
        Codecs beside those of zarr.

    Attributes
    ----------
    shape, n_values
        Shape of a chunk, and the number of its values.
    n_bytes
        Size of a decoded chunk; the largest one for text of variable length.
    longest
        Most bytes that a chunk is stored in.
    scratch_bytes
        Memory that decoding takes beside the stored bytes and the values.
    is_plain
        Whether the stored bytes are the values.

    Raises
    ------
    SourceFormatError
        For a codec that is not known here, so that nothing would hold it to a size.
    """

    def __init__(
        self, metadata: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any], uri: str, more: Codecs = _NONE
    ) -> None:
        self.shape, self._arguments = shape, (dtype, uri, more)
        self._metadata, self._others = metadata, dict[tuple[tuple[int, ...], int], ChunkDecoder]()
        self._is_text, self.n_values = dtype.kind in "OT", prod(shape)
        fields = [(name.removeprefix("numcodecs."), conf) for name, conf in chunk_codecs(codec_chain(metadata))]
        if len(fields) > _MOST_CODECS:
            raise SourceFormatError(f"{uri} names {len(fields):,} codecs; at most {_MOST_CODECS} are read: rewrite it")
        try:
            self._codecs = (
                _v2(metadata, fields, shape, dtype, {**BYTES_CODECS, **more})
                if metadata["zarr_format"] == 2
                else _v3(metadata, fields, shape, dtype)
            )
        except ImportError as error:
            raise SourceFormatError(f"{uri} has a codec whose package is not installed: {error}") from None
        except _UnknownCodecError as error:
            raise SourceFormatError(
                f"{uri} has the codec {error}, which is not read here for its values: {REWRITE}"
            ) from None
        self.n_bytes = self.n_values * (_LONGEST_TEXT if self._is_text else dtype.itemsize)
        self._sizes = list(accumulate(self._codecs, lambda size, codec: codec.longest(size), initial=self.n_bytes))
        self._n_exact = 0 if self._is_text else 1  # sizes from the front that are exact
        for codec in self._codecs:
            if self._n_exact == 0 or not codec.is_exact:
                break
            self._n_exact += 1
        self.longest = self._sizes[-1]
        sizes = zip(self._codecs, self._sizes, strict=False)
        self.scratch_bytes = sum(self._sizes[1:-1]) + sum(one.scratch * size + one.working for one, size in sizes)
        self.is_plain = not (self._codecs or self._is_text)

    def of_shape(self, shape: tuple[int, ...]) -> ChunkDecoder:
        """Return the decoder of chunks of another shape in the same array."""
        return self if shape == self.shape else self._other(shape, 0)

    def without(self, skipped: int) -> ChunkDecoder:
        """Return the decoder of chunks that did not go through some filters of zarr v2: a bit for each."""
        return self._other(self.shape, skipped) if skipped else self

    def _other(self, shape: tuple[int, ...], skipped: int) -> ChunkDecoder:
        found = self._others.get((shape, skipped))
        if found is None:
            metadata = dict(self._metadata)
            if skipped:
                kept = [one for place, one in enumerate(metadata["filters"]) if not skipped >> place & 1]
                metadata["filters"] = kept
            if len(self._others) >= _MOST_SHAPES:
                self._others.clear()
            found = self._others[shape, skipped] = ChunkDecoder(metadata, shape, *self._arguments)
        return found

    @property
    def decodes_together(self) -> bool:
        """Whether `decode_all` decodes: values of one size."""
        return not self._is_text

    def decode_all(self, encoded: Sequence[Array], values: Array) -> None:
        """Write the values of several chunks into ``values``, shape ``(chunks, values)``, as `decode` does one's."""
        content: Sequence[Array] | Array = encoded
        out = values.view(np.uint8)
        for number in range(len(self._codecs) - 1, -1, -1):
            if number >= self._n_exact:
                content = [self._unpacked(number, one) for one in content]
                continue
            target = np.empty((len(encoded), self._sizes[number]), np.uint8) if number else out
            self._codecs[number].unpack_all(content, target)
            content = target
        if not self._codecs:
            for one, into in zip(encoded, out, strict=True):
                self._check_size(len(one), 0)
                into[:] = one

    def decode(self, encoded: Array, values: Array) -> None:
        """Write the values of a chunk, flat and in native byte order, into ``values``; ``encoded`` is flat uint8.

        Raises
        ------
        ValueError
            If the chunk has another size than its metadata say. Codecs raise errors of other classes as well.
        """
        out = np.empty(self.n_bytes, np.uint8) if self._is_text else values.view(np.uint8)
        content = encoded
        for number in range(len(self._codecs) - 1, -1, -1):
            self._check_size(len(content), number + 1)
            target = np.empty(self._sizes[number], np.uint8) if number else out
            content = target[: self._codecs[number].unpack(content, target)]
        self._check_size(len(content), 0)
        if self._is_text:
            _decode_text(content, values)
        elif not self._codecs:
            put(content, out)

    def _unpacked(self, number: int, encoded: Array) -> Array:
        """Return what one codec makes of bytes, where it is not known how many they are."""
        target = np.empty(self._sizes[number], np.uint8)
        return target[: self._codecs[number].unpack(encoded, target)]

    def _check_size(self, n_bytes: int, number: int) -> None:
        """Check the size of what the codec before ``number`` was given when it was written."""
        if n_bytes > self._sizes[number] or (number < self._n_exact and n_bytes != self._sizes[number]):
            raise ValueError(f"{n_bytes:,} bytes where {self._sizes[number]:,} were expected")


class _UnknownCodecError(ValueError):
    """Codec that is not in the tables of this module and of `unpack`."""


def _v2(
    metadata: Mapping[str, Any], fields: _Fields, shape: tuple[int, ...], dtype: np.dtype[Any], known: Codecs
) -> list[BytesCodec]:
    codecs: list[BytesCodec] = []
    if metadata.get("order", "C") == "F" and len(shape) > 1:
        codecs.append(_transpose(shape, tuple(reversed(range(len(shape)))), dtype))
    if dtype.kind in "OT":
        if not fields or fields[0][0] != "vlen-utf8":
            raise _UnknownCodecError(repr(fields[0][0]) if fields else "of objects")
        fields = fields[1:]
    elif not dtype.isnative:
        codecs.append(_swap(dtype))
    for name, configuration in fields:
        if name in _FILTERS:
            codecs += _filter(name, configuration, dtype)
            dtype = _stored_as(name, configuration, dtype)
        else:
            codecs.append(_bytes_codec(name, configuration, dtype, known))
    return codecs


def _v3(metadata: Mapping[str, Any], fields: _Fields, shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[BytesCodec]:
    codecs: list[BytesCodec] = []
    fill = fill_value(metadata, dtype) if any(name in ARRAY_CODECS for name, _ in fields) else None
    for name, configuration in fields:
        if name == "transpose":
            order = tuple(configuration["order"])
            codecs.append(_transpose(shape, order, dtype))
            shape = tuple(shape[axis] for axis in order)
        elif name in _FILTERS:
            codecs += _filter(name, configuration, dtype)
            dtype = _stored_as(name, configuration, dtype)
        elif name in ARRAY_CODECS:
            codec, stored, fill = array_codec(name, configuration, prod(shape), dtype, fill)
            _check_numbers(name, dtype, stored)
            codecs.append(codec)
            dtype = stored
        elif name in ("bytes", "endian") and dtype.kind not in "OT":
            codecs += [_swap(dtype)] if configuration.get("endian") == "big" and _unit(dtype) > 1 else []
        elif name != "vlen-utf8" or dtype.kind not in "OT":
            codecs.append(_bytes_codec(name, configuration, dtype))
    return codecs


def _bytes_codec(
    name: str, configuration: Mapping[str, Any], dtype: np.dtype[Any], known: Codecs = BYTES_CODECS
) -> BytesCodec:
    if name == "pcodec":
        _check_numbers(name, dtype)
        return pcodec(configuration, dtype)
    if name not in known:
        raise _UnknownCodecError(repr(name))
    # of zarr v3, which takes it from the dtype; numcodecs has a default of its own, and v2 keeps to that
    defaults = {"elementsize": dtype.itemsize} if name == "shuffle" and "id" not in configuration else {}
    return known[name](defaults | dict(configuration) | {"id": name})


def _unit(dtype: np.dtype[Any]) -> int:
    """Return the number of bytes that byte order applies to."""
    return {"U": 4, "S": 1}.get(dtype.kind, dtype.itemsize)


def _swap(dtype: np.dtype[Any]) -> BytesCodec:
    unit = np.dtype(f"u{_unit(dtype)}")

    def unpack(encoded: Array, out: Array) -> int:
        out.view(unit)[...] = encoded.view(unit.newbyteorder())
        return len(out)

    return BytesCodec(unpack, lambda n: n, True)


def _transpose(shape: tuple[int, ...], order: tuple[int, ...], dtype: np.dtype[Any]) -> BytesCodec:
    if sorted(order) != list(range(len(shape))):
        raise _UnknownCodecError(f"'transpose' with the order {order}")
    stored_shape, inverse = tuple(shape[axis] for axis in order), tuple(np.argsort(order).tolist())
    item = np.dtype(f"V{dtype.itemsize}")

    def unpack(encoded: Array, out: Array) -> int:
        out.view(item).reshape(shape)[...] = encoded.view(item).reshape(stored_shape).transpose(inverse)
        return len(out)

    return BytesCodec(unpack, lambda n: n, True)


# What a filter's values are stored as, and what they are read as: the names in its configuration.
_FILTERS = {
    "astype": ("encode_dtype", "decode_dtype"),
    "bitround": (),
    "delta": ("astype", "dtype"),
    "fixedscaleoffset": ("astype", "dtype"),
    "quantize": ("astype", "dtype"),
}


def _filter(name: str, configuration: Mapping[str, Any], dtype: np.dtype[Any]) -> list[BytesCodec]:
    """Return the codec of a filter of numcodecs; none if it does nothing when it decodes."""
    if not _FILTERS[name]:
        return []
    _, decoded_name = _FILTERS[name]
    settings = {"id": name, decoded_name: dtype.str} | {
        key: value for key, value in configuration.items() if value is not None
    }
    codec = numcodecs.get_codec(settings)
    decoded, stored = np.dtype(settings[decoded_name]), _stored_as(name, settings, dtype)
    _check_numbers(name, decoded, stored)
    longest = lambda n: n // decoded.itemsize * stored.itemsize  # noqa: E731 - the size, beside the codec
    return [
        BytesCodec(
            lambda encoded, out: put(codec.decode(encoded), out), longest, True, 3 * _FLOAT64_BYTES // decoded.itemsize
        )
    ]


def _check_numbers(name: str, *dtypes: np.dtype[Any]) -> None:
    for dtype in dtypes:
        if dtype.kind not in "iuf" or dtype.itemsize > _FLOAT64_BYTES:
            raise _UnknownCodecError(f"{name!r} of values of dtype {dtype}")


def _stored_as(name: str, configuration: Mapping[str, Any], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that a filter's values are stored as."""
    if not _FILTERS[name]:
        return dtype
    stored_name, decoded_name = _FILTERS[name]
    return np.dtype(configuration.get(stored_name) or configuration.get(decoded_name) or dtype)


def _decode_text(content: Array, values: Array) -> None:
    n_texts = int.from_bytes(content[:4].tobytes(), "little")
    if n_texts != len(values):  # before the library makes so many
        raise ValueError(f"{n_texts:,} texts where {len(values):,} were expected")
    values[...] = numcodecs.VLenUTF8().decode(content.tobytes())
