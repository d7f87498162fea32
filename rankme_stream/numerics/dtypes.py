"""Stored number types that can be read, and their properties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.decoding import Decoding

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]

_MANTISSA_BITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
_INFINITY_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0000000000000}
_UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}
_SIGNED = {2: np.int16, 4: np.int32, 8: np.int64}
_COLUMNS_TRIED = 8  # features compared with zero before whole rows are
_FLOAT64_EXACT_INTEGER = 2**53
# A float16 shifted by 13 bits is a float32 without its exponent's bias: the mask clears copies of the sign between.
_FLOAT16_IN_FLOAT32 = np.int32(-0x7000_2000)
_FLOAT16_SCALE = np.float32(2.0**112)
_SMALLEST_FLOAT16 = np.array([1 << 13], dtype=np.int32).view(np.float32)  # 2^-24, shifted: a subnormal float32


@dataclass(frozen=True)
class StoredType:
    """A number type as stored: its name, its numpy dtype and its unit roundoff.

    Parameters
    ----------
    name
        ``float16``, ``bfloat16``, ``float32``, ``float64`` or an integer type's name.
    dtype
        Dtype of its numpy arrays, native byte order. ``bfloat16`` is held as ``uint16`` bit patterns, which needs no
        extra package.
    decoding
        How its numbers become values; None where they are the values.
    """

    name: str
    dtype: np.dtype[Any]
    decoding: Decoding | None = None

    @property
    def is_float(self) -> bool:
        """Whether values may be NaN or infinite."""
        return self.name in _MANTISSA_BITS

    @property
    def unit_roundoff(self) -> float:
        """Relative error of rounding a number to this type; 2**-53 for integers, which float64 holds."""
        return 2.0 ** -_MANTISSA_BITS.get(self.name, 53)

    @property
    def fits_float32(self) -> bool:
        """Whether float32 holds every value: floats of 32 bits or fewer, integers of 16 or fewer."""
        return self.dtype.itemsize <= (4 if self.is_float else 2)

    def widen(self, stored: Array, out: FloatArray, scratch: Array) -> None:
        """Write the values of ``stored``, finite where they are floats, into ``out`` of the same shape, exactly.

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
            limit = _FLOAT64_EXACT_INTEGER
            beyond = (stored > limit) if self.dtype.kind == "u" else (stored > limit) | (stored < -limit)
            if beyond.any():
                raise OverflowError(int(np.argmax(beyond.any(axis=1))))
        out[...] = stored

    def nonfinite_rows(self, stored: Array) -> Array | None:
        """Return a mask, shape ``(rows,)``, of the rows that hold NaN or infinity; None, quickly, where none does."""
        if not self.is_float or self._largest_bits(stored) < _INFINITY_BITS[self.name]:
            return None
        bits = stored.view(_UNSIGNED[self.dtype.itemsize])
        infinity = bits.dtype.type(_INFINITY_BITS[self.name])
        return np.asarray(((bits & infinity) == infinity).any(axis=1))

    def largest_magnitude(self, stored: Array) -> float:
        """Return the largest absolute value of float64 data; 0.0 for other types, whose squares cannot overflow."""
        return float(np.uint64(self._largest_bits(stored)).view(np.float64)) if self.name == "float64" else 0.0

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

        def is_zero(values: Array) -> Array:
            return np.asarray((values & 0x7FFF) == 0 if self.name == "bfloat16" else values == 0)

        candidates = np.flatnonzero(is_zero(stored[:, 0]))
        for column in range(1, min(_COLUMNS_TRIED, stored.shape[1])):
            if candidates.size == 0:
                return candidates
            candidates = candidates[is_zero(stored[candidates, column])]
        return candidates[is_zero(stored[candidates]).all(axis=1)]


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
    if dtype.name == "bfloat16" or (dtype.name == "uint16" and str(declared).removeprefix("torch.") == "bfloat16"):
        return StoredType("bfloat16", np.dtype(np.uint16))
    if dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize <= 8):
        return StoredType(dtype.name, dtype.newbyteorder("="))
    raise SourceFormatError(
        f"{uri} holds dtype {dtype}, which is not supported; "
        "float16, bfloat16, float32, float64 and integers are read: convert it first"
    )
