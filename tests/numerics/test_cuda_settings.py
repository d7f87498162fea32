"""Settings that change products on a card, without a card and without the libraries that read them."""

from __future__ import annotations

from types import SimpleNamespace

import array_api_compat.numpy as array_api_numpy
import numpy as np
import pytest

from rankme_stream.errors import DeviceError
from rankme_stream.numerics.devices import cuda_settings
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.cupy import CupyDevice
from rankme_stream.numerics.devices.torch import TorchDevice
from rankme_stream.numerics.dtypes import named_type

ALL_PRECISIONS = {
    "CUBLAS_EMULATE_DOUBLE_PRECISION": "1",
    "CUBLAS_EMULATION_STRATEGY": "eager",
    "CUBLAS_FIXEDPOINT_EMULATION_MANTISSA_BIT_COUNT": "0",
    "CUBLAS_EMULATION_SPECIAL_VALUES_SUPPORT_MASK": "0",
    "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM": "1",
}
FLOAT32_ALONE = {"CUBLAS_EMULATE_SINGLE_PRECISION": "1", "CUPY_TF32": "1", "NVIDIA_TF32_OVERRIDE": "1"}
RECORDED_ALONE = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
EVERY = ALL_PRECISIONS | FLOAT32_ALONE | RECORDED_ALONE


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in EVERY:
        monkeypatch.delenv(name, raising=False)


class Adding(StandardDevice):
    """A card that adds products of 16-bit rows up in a type that can change, and counts trials."""

    def __init__(self):
        super().__init__(array_api_numpy, "adding:0", types=("float16", "bfloat16", "float32", "float64"))
        self.sums, self.trials = np.float32, 0

    def set_product(self, left, right, out):
        self.trials += 1
        wide = left.astype(np.float32)
        out[...] = (wide.T @ wide).astype(self.sums)


def stand_in(**settings):
    """Return a card of torch, with settings of torch that can be set, and no torch."""
    device = TorchDevice.__new__(TorchDevice)
    matmul = SimpleNamespace(**settings)
    device.name, device._is_cuda = "cuda:0", True
    device._torch = SimpleNamespace(backends=SimpleNamespace(cuda=SimpleNamespace(matmul=matmul)))
    return device, matmul


@pytest.mark.parametrize("name", ALL_PRECISIONS)
def test_emulation_is_refused_with_every_precision(monkeypatch, name):
    card = Adding()
    cuda_settings.check(card, "float64", "float64")
    monkeypatch.setenv(name, ALL_PRECISIONS[name])
    for precision, panel_type in (("float64", "float64"), ("float32", "float64"), ("float32", "float16")):
        with pytest.raises(DeviceError, match=f"{name} is set to {ALL_PRECISIONS[name]}: unset it, the intervals"):
            cuda_settings.check(card, precision, panel_type)
    with pytest.raises(DeviceError, match=name):
        cuda_settings.refuse_emulation()
    assert cuda_settings.overrides() == {name: ALL_PRECISIONS[name]}


@pytest.mark.parametrize("name", FLOAT32_ALONE)
def test_rounded_float32_is_refused_where_it_is_multiplied(monkeypatch, name):
    card = Adding()
    monkeypatch.setenv(name, "1")
    for panel_type in ("float32", "float64"):
        with pytest.raises(DeviceError, match=f"{name} is set to 1: unset it, or pass "):
            cuda_settings.check(card, "float32", panel_type)
    cuda_settings.check(card, "float64", "float64")
    cuda_settings.check(card, "float32", "float16")  # products of these are exact, and no float32 is multiplied
    assert cuda_settings.overrides() == {name: "1"}


@pytest.mark.parametrize("name, value", [
    *((name, "") for name in EVERY), ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1"),
    *((name, "0") for name, on in EVERY.items() if on == "1"), ("CUBLAS_EMULATION_STRATEGY", "default"),
])  # fmt: skip
def test_values_that_change_nothing_are_recorded_alone(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    cuda_settings.check(Adding(), "float32", "float64")
    assert cuda_settings.overrides() == {name: value}


def test_a_trial_is_repeated_when_a_setting_has_changed(monkeypatch):
    card, kind = Adding(), named_type("float16")
    assert cuda_settings.adds_in_float32(card, kind)
    assert cuda_settings.adds_in_float32(card, kind)
    assert card.trials == 1
    card.sums = np.float16
    monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "0")
    assert not cuda_settings.adds_in_float32(card, kind)
    with pytest.raises(DeviceError, match="adding:0 does not add up products of float16 rows in float32 any more"):
        cuda_settings.check(card, "float32", "float16")
    assert card.trials == 2
    assert cuda_settings.adds_in_float32(card, kind, {"allow_fp16_accumulation": "True"}) is False
    assert card.trials == 3
    card.sums = np.float32
    assert cuda_settings.adds_in_float32(card, kind, {"allow_fp16_accumulation": "False"})
    assert not cuda_settings.adds_in_float32(card, named_type("float32"))
    assert card.trials == 4


@pytest.mark.parametrize("library", [CupyDevice, TorchDevice])
def test_devices_read_the_environment_at_every_check(monkeypatch, library):
    device = library.__new__(library) if library is CupyDevice else stand_in(allow_tf32=False)[0]
    device.name = "cuda:0"
    device.check_settings("float32", "float64")
    monkeypatch.setenv("CUBLAS_EMULATE_SINGLE_PRECISION", "1")
    device.check_settings("float64", "float64")
    with pytest.raises(DeviceError, match="CUBLAS_EMULATE_SINGLE_PRECISION"):
        device.check_settings("float32", "float64")
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")
    with pytest.raises(DeviceError, match="CUBLAS_EMULATE_DOUBLE_PRECISION"):
        device.check_settings("float64", "float64")


@pytest.mark.parametrize("precision", ["tf32", "bf16", "one of a later release"])
def test_torch_must_multiply_float32_as_it_is(precision):
    device, matmul = stand_in(fp32_precision="none")
    for harmless in ("none", "ieee"):
        matmul.fp32_precision = harmless
        device.check_settings("float32", "float64")
    matmul.fp32_precision = precision
    device.check_settings("float64", "float64")
    for call in (
        lambda: device.check_settings("float32", "float64"), lambda: device.narrow(None, None),
        lambda: device.add_float32_panels(SimpleNamespace(dtype="torch.float32"), 1, None, None, None),
    ):  # fmt: skip
        with pytest.raises(DeviceError, match=rf'rounds float32 to {precision}: set .*\.fp32_precision = "ieee", or'):
            call()


def test_torch_of_before_2_9_has_one_switch():
    device, matmul = stand_in(allow_tf32=False)
    device.check_settings("float32", "float64")
    matmul.allow_tf32 = True
    with pytest.raises(DeviceError, match=r"set torch\.backends\.cuda\.matmul\.allow_tf32 = False, or pass "):
        device.check_settings("float32", "float64")


def test_sums_in_float16_are_noticed_at_the_next_use():
    device, matmul = stand_in(fp32_precision="ieee", allow_fp16_accumulation=True)
    panels = [SimpleNamespace(dtype=f"torch.{name}") for name in ("float16", "bfloat16")]
    with pytest.raises(DeviceError, match=r"adds products of float16 up in float16: set .*_accumulation = False"):
        device.add_float32_panels(panels[0], 1, None, None, None)
    with pytest.raises(DeviceError, match="allow_fp16_accumulation"):
        device.check_settings("float32", "float16")
    cuda_settings.refuse_of_torch(device._torch, "bfloat16")  # the switch is one of float16 alone
    device.check_settings("float32", "float64")
    matmul.allow_fp16_accumulation = False
    cuda_settings.refuse_of_torch(device._torch, "float16")


@pytest.mark.parametrize("flag", ["allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"])
def test_other_switches_of_torch_call_for_another_trial(monkeypatch, flag):
    device, matmul = stand_in(fp32_precision="ieee")
    tried = []
    monkeypatch.setattr(cuda_settings, "_tried", lambda card, kind, settings: tried.append(settings) or True)
    kind = named_type("bfloat16")
    for value in (False, True, False):
        setattr(matmul, flag, value)
        assert device.multiplies_exactly(kind)
        device.check_settings("float32", "bfloat16")
    assert tried[0] == tried[1] == tried[4] == tried[5] != tried[2] == tried[3]
    assert cuda_settings.of_torch(device._torch)[flag] == "False"
