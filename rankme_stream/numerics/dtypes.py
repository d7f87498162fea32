"""Stored number types that can be read, and their properties."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.decoding import Decoding

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]

_MANTISSA_BITS = {"float8_e4m3fn": 4, "float8_e5m2": 3, "float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
# The least pattern, without the sign, that is not finite.
_INFINITY_BITS = {
    "float8_e4m3fn": 0x7F, "float8_e5m2": 0x7C, "float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000,
    "float64": 0x7FF0000000000000,
}  # fmt: skip
_BIT_PATTERNS = {"bfloat16": np.uint16, "float8_e4m3fn": np.uint8, "float8_e5m2": np.uint8}  # types that numpy lacks
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_SIGNED = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
LARGEST_MAGNITUDE = 2.0**480  # its square times 2^64 rows and features stays within the range of float64
_COLUMNS_TRIED = 8  # features compared before whole rows are
_DECODED_AT_ONCE = 2**15  # numbers whose values stay in the cache while they are computed
EXACT_INTEGER = 2**53  # float64 holds all integers up to it
# A float16 shifted by 13 bits is a float32 without its exponent's bias: the mask clears copies of the sign between.
_FLOAT16_IN_FLOAT32 = np.int32(-0x7000_2000)
_FLOAT16_SCALE = np.float32(2.0**112)
_SMALLEST_FLOAT16 = np.array([1 << 13], dtype=np.int32).view(np.float32)  # 2^-24, shifted: a subnormal float32


def _float8_values() -> dict[str, FloatArray]:
    """Return the value of each bit pattern of the 8-bit floats."""
    bits = np.arange(256)
    exponent, fraction = bits >> 3 & 15, bits & 7
    magnitude = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    magnitude[bits & 0x7F == 0x7F] = np.nan
    return {
        "float8_e4m3fn": np.where(bits & 0x80, -magnitude, magnitude),
        "float8_e5m2": (bits << 8).astype(np.uint16).view(np.float16).astype(np.float64),  # the upper half of a float16
    }


_FLOAT8_VALUES = _float8_values()


@dataclass(frozen=True)
class StoredType:
    """A number type as stored: its name, its numpy dtype, its unit roundoff, and what its numbers mean.

    Parameters
    ----------
    name
        ``float8_e4m3fn``, ``float8_e5m2``, ``float16``, ``bfloat16``, ``float32``, ``float64`` or an integer type's
        name.
    dtype
        Dtype of its numpy arrays, native byte order. Types that numpy lacks are held as bit patterns, ``uint8`` or
        ``uint16``, which needs no extra package.
    decoding
        How its numbers become values; None where they are the values.
    note
        What the numbers mean, for the result, where nothing decodes them: ``float32, decoded from int8``; the type
        as stored if empty.
    lacking
        What is wrong with a row that holds NaN, in words, where its source wrote the NaN: ``has no finite scale``.
    """

    name: str
    dtype: np.dtype[Any]
    decoding: Decoding | None = None
    note: str = field(default="", compare=False)
    lacking: str = field(default="", compare=False)

    @property
    def description(self) -> str:
        """What the stored numbers mean, in words."""
        if self.decoding is not None:
            return self.decoding.describe(self.name)
        if self.note:
            return self.note
        return f"{self.name} as stored" + ("" if self.is_float else ": no scale is declared")

    @property
    def fault(self) -> str:
        """What is wrong with the rows that ``nonfinite_rows`` finds, in words: ``is not finite``."""
        faults = [self.lacking or "is not finite"] if self.is_float else []
        if self.decoding is not None and self.decoding.absence:
            faults.append(f"holds no data {self.decoding.absence}, by {self.decoding.source}")
        return " or ".join(faults)

    @property
    def is_float(self) -> bool:
        """Whether stored numbers may be NaN or infinite."""
        return self.name in _MANTISSA_BITS

    @property
    def unit_roundoff(self) -> float:
        """Relative error of rounding a number to this type; 2**-53 for integers, which float64 holds."""
        return 2.0 ** -_MANTISSA_BITS.get(self.name, 53)

    @property
    def fits_float32(self) -> bool:
        """Whether float32 holds every value: floats of 32 bits or fewer, integers of 16 or fewer, not decoded."""
        return self.decoding is None and self.dtype.itemsize <= (4 if self.is_float else 2)

    def as_held(self, rows: Array) -> Array:
        """Return rows that a card gave back as they are held here: bfloat16 by its bits, whatever they came as."""
        if rows.dtype == self.dtype:
            return rows
        if rows.dtype.itemsize == self.dtype.itemsize:
            return rows.view(self.dtype)
        bits = np.ascontiguousarray(rows).view(np.uint32)  # of bfloat16 values in float32: their upper half
        return (bits >> 16).astype(self.dtype)

    def values(self, stored: Array) -> FloatArray:
        """Return the values of stored rows in float64; a row without data, or not finite, holds NaN throughout.

        Raises
        ------
        OverflowError
            As ``widen``.
        """
        out = np.empty(stored.shape)
        with np.errstate(invalid="ignore"):  # NaN
            self.widen(stored, out, np.empty(stored.shape, np.int32))
        bad = self.nonfinite_rows(stored)
        if bad is not None:
            out[bad] = np.nan
        return out

    def widen(self, stored: Array, out: FloatArray, scratch: Array) -> None:
        """Write the values of ``stored``, finite where they are floats, into ``out`` of the same shape.

        Values are exact, but for the rounding of each operation of ``decoding``.

        Parameters
        ----------
        out
            float64; or float32, if ``fits_float32``.
        scratch
            Shape of ``stored``, int32, overwritten: the intermediate form of 16-bit types.

        Raises
        ------
        OverflowError
            Integers beyond 2**53; the argument is the index of the first row that holds one.
        """
        if self.decoding is None and self.name not in _FLOAT8_VALUES:
            self._widen(stored, out, scratch)
            return
        step = max(1, _DECODED_AT_ONCE // stored.shape[1])
        values = np.empty((min(step, len(stored)), stored.shape[1]))  # side by side, as rows of a panel are not
        for low in range(0, len(stored), step):
            some = slice(low, low + step)
            decoded = values[: len(stored[some])]
            try:
                self._widen(stored[some], decoded, scratch[some])
            except OverflowError as error:
                raise OverflowError(low + error.args[0]) from None
            if self.decoding is not None:
                with np.errstate(all="ignore"):  # rows without data hold any number, and are left out
                    self.decoding.apply(decoded)
            out[some] = decoded

    def _widen(self, stored: Array, out: FloatArray, scratch: Array) -> None:
        """Write stored numbers, not decoded, into ``out``, exactly."""
        if self.name in _FLOAT8_VALUES:
            out[...] = _FLOAT8_VALUES[self.name][stored]
            return
        if self.name == "bfloat16":
            np.left_shift(stored.view(np.int16), 16, out=scratch, dtype=np.int32)
            out[...] = scratch.view(np.float32)
            return
        if self.name == "float16" and _keeps_subnormals():  # takes half the time of numpy's own cast
            np.copyto(scratch, stored.view(np.int16))  # with the sign repeated above it
            np.left_shift(scratch, 13, out=scratch)
            np.bitwise_and(scratch, _FLOAT16_IN_FLOAT32, out=scratch)
            np.multiply(scratch.view(np.float32), _FLOAT16_SCALE, out=out)
            return
        if not self.is_float and self.dtype.itemsize == 8:
            limit = EXACT_INTEGER
            beyond = (stored > limit) if self.dtype.kind == "u" else (stored > limit) | (stored < -limit)
            if beyond.any():
                raise OverflowError(int(np.argmax(beyond.any(axis=1))))
        out[...] = stored

    def nonfinite_rows(self, stored: Array) -> Array | None:
        """Return a mask, shape ``(rows,)``, of the rows with NaN, infinity or no data; None, quickly, where none is."""
        bad: Array | None = None
        if self.is_float and self._largest_bits(stored) >= _INFINITY_BITS[self.name]:
            bits = stored.view(_UNSIGNED[self.dtype.itemsize])
            infinity = bits.dtype.type(_INFINITY_BITS[self.name])
            bad = ((bits & infinity) == infinity).any(axis=1)
        absent = None if self.decoding is None else self._held_decoding.lacks_data(self._numbers(stored))
        if absent is None:
            return bad
        return np.asarray(absent.any(axis=1) if bad is None else bad | absent.any(axis=1))

    @cached_property
    def _held_decoding(self) -> Decoding:
        """The decoding, its numbers that are no data rounded as bit patterns hold them."""
        assert self.decoding is not None
        if self.name not in _BIT_PATTERNS:
            return self.decoding
        patterns = self._numbers(np.arange(2 ** (8 * self.dtype.itemsize), dtype=self.dtype)[None, :])[0]
        finite = patterns[np.isfinite(patterns)]
        nearest = [float(finite[np.argmin(np.abs(finite - value))]) for value in self.decoding.nodata]
        return replace(self.decoding, nodata=tuple(nearest))

    def _numbers(self, stored: Array) -> Array:
        """Return stored numbers in a type that numpy compares: as they are, or in float32 for bit patterns."""
        if self.name not in _BIT_PATTERNS:
            return stored
        numbers = np.empty(stored.shape, np.float32)
        with np.errstate(invalid="ignore"):  # NaN
            self._widen(stored, numbers, np.empty(stored.shape, np.int32))  # type: ignore[arg-type]
        return numbers

    def largest_magnitude(self, stored: Array) -> float:
        """Return the largest absolute value; 0.0 for types whose squares cannot overflow."""
        if not self.may_be_large:
            return 0.0
        if self.decoding is None:
            return float(np.uint64(self._largest_bits(stored)).view(np.float64))
        return float(np.abs(self._decoded(self._numbers(stored))).max())

    @cached_property
    def may_be_large(self) -> bool:
        """Whether squares of values may overflow: those of float64, and of decoded data of a wide scale."""
        if self.decoding is None:
            return self.name == "float64"
        wide = np.float64 if self.name == "float64" else np.float32
        limits: Any = np.finfo(wide) if self.is_float else np.iinfo(self.dtype)
        return bool(np.abs(self._decoded(np.array([limits.min, limits.max], wide))).max() > LARGEST_MAGNITUDE)

    def _decoded(self, numbers: Array) -> FloatArray:
        """Return the values of numbers, whether they are data or not."""
        assert self.decoding is not None
        values = numbers.astype(np.float64)
        with np.errstate(all="ignore"):
            self.decoding.apply(values)
        return values

    def _largest_bits(self, stored: Array) -> int:
        """Return the largest absolute value as the bit pattern of this floating-point type.

        IEEE patterns without the sign bit are ordered like the magnitudes, so two integer maxima, one for each sign,
        replace ``abs`` and ``max`` at a fraction of the memory traffic, and NaN and infinity are the largest.
        """
        size = self.dtype.itemsize
        positive = int(stored.view(_SIGNED[size]).max())
        any_sign = int(stored.view(_UNSIGNED[size]).max())
        return max(positive, any_sign - (1 << (8 * size - 1)), 0)

    def zero_rows(self, stored: Array) -> Array:
        """Return the indices of the rows that are zero throughout; a dense row costs one comparison."""

        def is_zero(numbers: Array) -> Array:
            if self.decoding is not None:
                return np.asarray(self._decoded(self._numbers(numbers)) == 0)
            return np.asarray(numbers << 1 == 0 if self.name in _BIT_PATTERNS else numbers == 0)  # of either sign

        candidates = np.flatnonzero(is_zero(stored[:, 0]))
        for column in range(1, min(_COLUMNS_TRIED, stored.shape[1])):
            if candidates.size == 0:
                return candidates
            candidates = candidates[is_zero(stored[candidates, column])]
        return candidates[is_zero(stored[candidates]).all(axis=1)]

    def constant_rows(self, stored: Array) -> Array:
        """Return the indices of the rows that hold one stored number in all features, of two or more."""
        n_features = stored.shape[1]
        candidates = np.flatnonzero(stored[:, 0] == stored[:, n_features - 1]) if n_features > 1 else np.arange(0)
        for column in range(1, min(_COLUMNS_TRIED, n_features)):
            if candidates.size == 0:
                return candidates
            candidates = candidates[stored[candidates, column] == stored[candidates, 0]]
        return np.asarray(candidates[(stored[candidates] == stored[candidates, :1]).all(axis=1)])


def _keeps_subnormals() -> bool:
    """Return whether this thread keeps subnormal numbers; libraries built with fast math may turn them off."""
    return bool((_SMALLEST_FLOAT16 * _FLOAT16_SCALE)[0] == 2.0**-24)


def stored_type(dtype: np.dtype[Any], *, uri: str, declared: object = None) -> StoredType:
    """Return the stored type of a numpy dtype, or refuse it.

    Parameters
    ----------
    dtype
        Dtype that the container reports, any byte order.
    uri
        Name for the error.
    declared
        The ``dtype`` attribute of the container; ``"bfloat16"`` over ``uint16`` is the usual convention.

    Raises
    ------
    SourceFormatError
        For booleans, complex numbers, strings, objects, structures and floats wider than 64 bits.
    """
    if dtype.name == "uint16" and str(declared).removeprefix("torch.") == "bfloat16":
        return named_type("bfloat16")
    if dtype.name in _BIT_PATTERNS or dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize <= 8):
        return named_type(dtype.name)
    raise SourceFormatError(
        f"{uri} holds dtype {dtype}, which is not supported; "
        "float8, float16, bfloat16, float32, float64 and integers are read: convert it first"
    )


def named_type(name: str) -> StoredType:
    """Return the stored type of a name, such as ``bfloat16``, without a decoding.

    Raises
    ------
    TypeError
        If there is no such type.
    """
    dtype = np.dtype(_BIT_PATTERNS.get(name, name))
    if name not in _MANTISSA_BITS and dtype.kind not in "iu":
        raise TypeError(f"{name!r} is no type of stored numbers")
    return StoredType(name, dtype)
