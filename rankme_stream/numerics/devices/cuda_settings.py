"""Settings that change products on a CUDA card: recorded, and refused where bounds would not hold.

Products of 16-bit rows with float32 sums are tried before they are used.
"""

from __future__ import annotations

import os
from functools import lru_cache

import numpy as np

from rankme_stream.errors import DeviceError
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.dtypes import StoredType

_TF32 = ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE")
_EMULATION = ("CUBLAS_EMULATE_DOUBLE_PRECISION", "CUBLAS_EMULATION_STRATEGY")
_STREAMS = "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM"
_OFF = ("", "0", "false", "off", "default")
_ONES = {"float16": 0x3C00, "bfloat16": 0x3F80}  # the bits of 1.0
_TRIAL_ROWS = 2049  # of ones: neither 16-bit type can represent their sum


def overrides() -> dict[str, str]:
    """Return the settings found in the environment."""
    return {name: os.environ[name] for name in (*_TF32, *_EMULATION, _STREAMS) if name in os.environ}


def refuse_emulation() -> None:
    """Refuse float64 emulated by smaller products, for which no certificate holds, and unsynchronized streams."""
    for name in (*_EMULATION, _STREAMS):
        if os.environ.get(name, "").lower() not in _OFF:
            raise DeviceError(f"{name} is set to {os.environ[name]}: unset it, the intervals would not hold")


def refuse_tf32(is_allowed: bool = False) -> None:
    """Refuse float32 products that round their factors to TF32."""
    for name in _TF32:
        if os.environ.get(name, "").lower() not in _OFF:
            raise DeviceError(f"{name} is set to {os.environ[name]}: unset it, or leave precision float32 out")
    if is_allowed:
        raise DeviceError(
            "PyTorch is allowed to round float32 to TF32: set torch.backends.cuda.matmul.allow_tf32 = False, or leave "
            "precision float32 out"
        )


@lru_cache(maxsize=16)
def adds_in_float32(device: Device, kind: StoredType) -> bool:
    """Return whether a card sums products of 16-bit rows in float32, by trial: libraries lack it or sum in 16 bits."""
    if kind.name not in _ONES:
        return False
    ones = device.rows(np.full((_TRIAL_ROWS, 8), _ONES[kind.name], np.uint16).view(kind.dtype), kind)
    sums = device.zeros((8, 8), np.float32)
    try:
        device.set_product(ones, ones, sums)
    except (TypeError, AttributeError, RuntimeError):  # an older library; NotImplementedError is one of these
        return False
    return bool((device.download(sums) == _TRIAL_ROWS).all())
