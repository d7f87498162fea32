"""Settings of CUDA that change what a product is: recorded, and refused where the arithmetic would not be as told."""

from __future__ import annotations

import os

from rankme_stream.errors import DeviceError

_TF32 = ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE")
_EMULATION = ("CUBLAS_EMULATE_DOUBLE_PRECISION", "CUBLAS_EMULATION_STRATEGY")
_STREAMS = "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM"
_OFF = ("", "0", "false", "off", "default")


def overrides() -> dict[str, str]:
    """Return those that are set."""
    return {name: os.environ[name] for name in (*_TF32, *_EMULATION, _STREAMS) if name in os.environ}


def refuse_emulation() -> None:
    """Refuse float64 made of smaller products, for which no certificate holds, and streams that do not wait."""
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
