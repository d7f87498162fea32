"""Settings that change products on a CUDA card: recorded, and refused where bounds would not hold.

They are read at every call, because a program may change them at any time. Products of 16-bit rows with float32 sums
are tried before they are used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from rankme_stream.errors import DeviceError, argument
from rankme_stream.numerics.devices.card import Card
from rankme_stream.numerics.dtypes import StoredType, named_type

# Variables of the environment, each with the values that leave the arithmetic as it is. An empty value is as good as
# none. A count of mantissa bits and a mask of special values have no value for "off": 0 is a count and a mask.
_FOR_ALL = {
    "CUBLAS_EMULATE_DOUBLE_PRECISION": ("0",),
    "CUBLAS_EMULATION_STRATEGY": ("default",),
    "CUBLAS_FIXEDPOINT_EMULATION_MANTISSA_BIT_COUNT": (),
    "CUBLAS_EMULATION_SPECIAL_VALUES_SUPPORT_MASK": (),
    "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM": ("0",),
}
_FOR_FLOAT32 = {"CUBLAS_EMULATE_SINGLE_PRECISION": ("0",), "CUPY_TF32": ("0",), "NVIDIA_TF32_OVERRIDE": ("0",)}
_OF_TORCH = ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",)  # read when torch is imported; then its fp32_precision decides
_FLAGS = (  # of torch
    "allow_fp16_accumulation", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction",
)  # fmt: skip
_ONES = {"float16": 0x3C00, "bfloat16": 0x3F80}  # the bits of 1.0
_NONE: Mapping[str, str] = MappingProxyType({})
_TRIAL_ROWS = 2049  # of ones: neither 16-bit type can represent their sum


def overrides() -> dict[str, str]:
    """Return the settings found in the environment."""
    return {name: os.environ[name] for name in (*_FOR_ALL, *_FOR_FLOAT32, *_OF_TORCH) if name in os.environ}


def refuse_emulation() -> None:
    """Refuse float64 emulated by smaller products, for which no certificate holds, and unsynchronized streams."""
    for name, harmless in _FOR_ALL.items():
        if not _is_harmless(name, harmless):
            raise DeviceError(f"{name} is set to {os.environ[name]}: unset it, the intervals would not hold")


def refuse_tf32() -> None:
    """Refuse float32 products that are emulated, or round their factors to TF32."""
    for name, harmless in _FOR_FLOAT32.items():
        if not _is_harmless(name, harmless):
            raise DeviceError(
                f"{name} is set to {os.environ[name]}: unset it, or pass {argument('precision', 'float64')}"
            )


def of_torch(torch: Any) -> dict[str, str]:
    """Return the settings of PyTorch that change products."""
    matmul = torch.backends.cuda.matmul
    # that of matmul; where it has none, that of CUDA; where that has none, that of everything. Older releases lack it.
    precision = getattr(matmul, "fp32_precision", None) or ("tf32" if matmul.allow_tf32 else "ieee")
    return {"fp32_precision": precision} | {name: str(getattr(matmul, name, False)) for name in _FLAGS}


def refuse_of_torch(torch: Any, panel_type: str) -> None:
    """Refuse settings of PyTorch that round the factors or the sums of float32 products of panels of a type."""
    found, name = of_torch(torch), ""
    if panel_type in _ONES:
        if panel_type == "float16" and found["allow_fp16_accumulation"] == "True":
            what, name, value = "adds products of float16 up in float16", "allow_fp16_accumulation", "False"
    elif found["fp32_precision"] not in ("ieee", "none"):
        what = f"rounds float32 to {found['fp32_precision']}"
        is_new = hasattr(torch.backends.cuda.matmul, "fp32_precision")
        name, value = ("fp32_precision", '"ieee"') if is_new else ("allow_tf32", "False")
    if name:
        raise DeviceError(
            f"PyTorch {what}: set torch.backends.cuda.matmul.{name} = {value}, or pass "
            f"{argument('precision', 'float64')}"
        )


def _is_harmless(name: str, values: tuple[str, ...]) -> bool:
    return os.environ.get(name, "").lower() in ("", *values)


def check(card: Card, precision: str, panel_type: str, flags: Mapping[str, str] = _NONE) -> None:
    """Refuse settings under which products would not be what their bounds assume.

    Parameters
    ----------
    precision, panel_type
        As ``Card.check_settings``.
    flags
        Settings of a library, beside those in the environment, with which a trial product was or is to be formed.

    Raises
    ------
    DeviceError
        The text names the setting.
    """
    refuse_emulation()
    if panel_type in _ONES:
        if not adds_in_float32(card, named_type(panel_type), flags):
            raise DeviceError(
                f"{card.name} does not add up products of {panel_type} rows in float32 any more: a setting was changed "
                f"since the pass began; set it back, or pass {argument('precision', 'float64')}"
            )
    elif precision == "float32":
        refuse_tf32()


def adds_in_float32(card: Card, kind: StoredType, flags: Mapping[str, str] = _NONE) -> bool:
    """Return whether a card sums products of 16-bit rows in float32, by trial: libraries lack it or sum in 16 bits.

    A trial waits for the card. It is repeated when a setting has changed since.
    """
    return kind.name in _ONES and _tried(card, kind, (*overrides().items(), *flags.items()))


@lru_cache(maxsize=64)
def _tried(card: Card, kind: StoredType, settings: tuple[object, ...]) -> bool:
    """Return the result of a trial under the present settings."""
    rows = card.pinned(_TRIAL_ROWS * 8 * kind.dtype.itemsize).view(np.uint16).reshape(_TRIAL_ROWS, 8)
    rows[...] = _ONES[kind.name]
    stream = card.stream()
    with stream:
        ones, sums = card.stored_rows((_TRIAL_ROWS, 8), kind), card.zeros((8, 8), np.float32)
        stream.copy(rows.view(kind.dtype), ones)
        try:
            card.set_product(ones, ones, sums)
        except (TypeError, AttributeError, RuntimeError):  # an older library; NotImplementedError is one of these
            return False
        finally:
            stream.record().wait()  # the rows must live until they are copied
        return bool((card.download(sums) == _TRIAL_ROWS).all())
