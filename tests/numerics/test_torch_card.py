"""What a pass over rows needs of torch: on the processor, on tensors without values, and on a card, if there is one."""

from __future__ import annotations

import math
import warnings
from functools import cache

import array_api_compat.numpy as array_api_numpy
import ml_dtypes
import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import DeviceError
from rankme_stream.numerics.devices import registry
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.card import INEXACT, LARGE, MISSING, NONFINITE, ZERO, Seen
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.devices.known_products import check_slabs
from rankme_stream.numerics.devices.torch import TorchDevice
from rankme_stream.numerics.dtypes import named_type
from rankme_stream.sources import ArraySource
from tests.tensor_core_model import tensor_core_product

torch = pytest.importorskip("torch", reason="torch is not installed")

TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64")
NUMPY = StandardDevice(array_api_numpy, "numpy:0", types=TYPES)  # the operations of the standard, to compare with
FORBIDDEN = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "index.Tensor", "index_put")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small products wait for each other otherwise
    yield
    torch.set_num_threads(threads)


@cache
def processor():
    return TorchDevice("cpu")


def card():
    """Return a card of torch, whatever else serves cards here."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no card")
    return TorchDevice("cuda:0")


@pytest.fixture(params=["processor", "card"])
def device(request):
    return processor() if request.param == "processor" else card()


def rows_of(name: str, n_rows: int = 60, n_features: int = 9) -> np.ndarray:
    """Return rows of a type as a source stores them, with every fault that the type can have."""
    rng = np.random.default_rng(3)
    if name.startswith(("int", "uint")):
        limits = np.iinfo(name)
        rows = rng.integers(limits.min, limits.max, (n_rows, n_features), dtype=name, endpoint=True)
        rows[30:] = rows[30:] % 7
    else:
        rows = rng.standard_normal((n_rows, n_features)).astype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
        rows[1, 2], rows[2, 8], rows[3, 0], rows[4, :] = np.nan, np.inf, -np.inf, np.inf
        rows[5, :3] = np.nan, np.inf, -np.inf
        rows[6, :] = [0.0, -0.0] * (n_features // 2) + [0.0] * (n_features % 2)
        rows[:, 7] = 0
    rows[10:12], rows[12], rows[13, :-1], rows[14] = 0, 3, 0, rows[15, 0]
    if name == "float64":
        rows[20, 4], rows[21, 5], rows[22, 0] = -1e200, 2.0**480, 5e-324
    if name == "int64":
        rows[20, 4], rows[21, 5], rows[22, 0] = 2**53, 2**53 + 1, -(2**53) - 1
    return rows.view(np.uint16) if name == "bfloat16" else rows


def look(device: TorchDevice | StandardDevice, name: str, panel_type: str, skip: int, stored: np.ndarray):
    """Return the flags, the largest magnitude, the nonzero features and the slab that a device finds."""
    n_rows, n_features = stored.shape
    kind, stream = named_type(name), device.stream()
    host = device.pinned(stored.nbytes).view(stored.dtype).reshape(stored.shape)
    host[...] = stored
    with stream:
        seen = Seen(device.zeros((n_rows,), np.uint8), device.zeros((1,)), device.zeros((n_features,), np.uint8))
        seen.flags[n_rows - 2] = MISSING
        slab, there = device.slab((n_rows + 3, 1 + n_features), panel_type), device.stored_rows(stored.shape, kind)
        slab[...] = 77
        stream.copy(host, there)
        device.fill_slab(there, kind, slab[2 : n_rows + 2, :], seen, skip)
    stream.record().wait()
    return [device.download(one) for one in (*seen, slab)]


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(
    "skip", [0, NONFINITE | MISSING, NONFINITE | ZERO | MISSING, NONFINITE | MISSING | LARGE | INEXACT]
)
def test_a_look_finds_what_the_operations_of_the_standard_find(device, name, skip):
    stored = rows_of(name)
    if not skip:  # what is not finite and not left out ends the pass
        stored = np.delete(stored, range(1, 6), axis=0)
    panel_types = ["float64"] + [name] * (name in ("float16", "bfloat16", "float32"))
    for panel_type in panel_types:
        found = look(device, name, panel_type, skip, stored)
        if name == "bfloat16":  # numpy lacks it; float32 has the same values and faults
            wide = stored.view(ml_dtypes.bfloat16).astype(np.float32)
            wanted = look(NUMPY, "float32", "float64", skip, wide)
        else:
            wanted = look(NUMPY, name, "float64", skip, stored)
        for one, other in zip(found, wanted, strict=True):
            assert np.array_equal(one, other)
        assert (found[3][[0, 1, -1]] == 77).all()
    assert (found[0] != 0).any()
    if name == "float64" and skip and not skip & LARGE:
        assert found[1] == 1e200
        assert found[0][20] == LARGE


def test_rows_of_one_feature_are_not_constant(device):
    stored = np.array([[0.0], [2.0], [np.nan]], np.float32)
    for found, wanted in zip(
        *(look(one, "float32", "float64", NONFINITE, stored) for one in (device, NUMPY)), strict=1
    ):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_features_of_a_slab_begin_where_products_read_them_fastest(device, dtype):
    alignment = 64 if device is processor() else 128  # of the memory that torch takes
    for width in (2, 16, 769, 1025):
        slab, numbers = device.slab((5, width), dtype), device.upload(np.arange(5 * width).reshape(5, width) % 101)
        assert not device.download(slab).any()
        assert slab[:, 1:].data_ptr() % alignment == 0
        assert slab.stride() == (-(-width // 16) * 16, 1)
        slab[...] = numbers
        assert bool((slab == numbers).all())  # rows do not overlap


def test_unit_rows_have_length_one_and_rows_of_zeros_are_left_out(device):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 12)) * 10.0 ** rng.integers(-100, 100, (50, 1))
    rows[7] = 0.0
    ones = np.ones(50)
    ones[9], rows[9] = 0.0, 0.0  # left out before
    slab, out = device.slab((50, 13), "float64"), device.slab((50, 13), "float64")
    slab[...] = device.upload(np.column_stack([ones, rows]))
    out[...] = 5.0
    device.unit_rows(slab, out)
    found = device.download(out)
    lengths = np.sqrt((rows**2).sum(axis=1))
    is_zero = lengths == 0
    assert np.array_equal(found[:, 0], (~is_zero).astype(float))
    assert np.allclose(found[:, 1:], rows / np.where(is_zero, 1.0, lengths)[:, None], rtol=1e-15, atol=0)


def panels_of(n_rows: int, n_features: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n_rows, 1 + n_features)) + 0.5
    rows[:, 0] = 1.0
    rows[n_rows // 2] = 0.0  # left out
    return rows


def slab_of(device: TorchDevice, rows: np.ndarray, dtype: str = "float64"):
    slab = device.slab(rows.shape, dtype)
    slab[...] = device.upload(rows).to(slab.dtype)
    return slab


@pytest.mark.parametrize("n_features, n_rows", [
    *((n_features, n_rows) for n_features in (1, 24, 600) for n_rows in (5, 32, 7 * 32, 17 * 32)),
    (1025, 2 * 32), (2048, 5), (2048, 2 * 32),
])  # fmt: skip
def test_products_of_panels_are_added_to_the_lower_triangle(device, n_features, n_rows):
    rows = panels_of(n_rows, n_features)
    before = np.random.default_rng(1).standard_normal((1 + n_features,) * 2)
    lower = np.tril(before)
    total = device.upload(np.where(np.tri(1 + n_features) > 0, before, np.nan))  # the rest may be anything
    device.add_panels(slab_of(device, rows), 32, total, Workspace(device))
    found = np.tril(device.download(total))
    assert np.allclose(found, lower + np.tril(rows.T @ rows), rtol=1e-13, atol=1e-12 * n_rows)
    assert found[0, 0] == lower[0, 0] + (n_rows - 1.0)


@pytest.mark.parametrize("n_features", [24, 520])
def test_bits_do_not_depend_on_how_panels_fall_into_slabs(device, n_features, monkeypatch):
    at_once, multiply = set(), device._multiply
    monkeypatch.setattr(device, "_multiply", lambda some, out: (at_once.add(len(some)), multiply(some, out)))
    rows, scratch = panels_of(18 * 16, n_features), Workspace(device)
    for dtype in ("float64", "float32"):
        found = []
        for step in (1, 5, 16, 18):
            total, flags = device.zeros((1 + n_features,) * 2), device.zeros((18,), np.uint8)
            for first in range(0, 18, step):
                slab = slab_of(device, rows[16 * first : 16 * (first + step)], dtype)
                if dtype == "float64":
                    device.add_panels(slab, 16, total, scratch)
                else:
                    device.add_float32_panels(slab, 16, total, flags[first : first + step], scratch)
            found.append(device.download(total))
        assert all(np.array_equal(one, found[0]) for one in found[1:])
    assert at_once == {16 if n_features == 24 else 8}  # cuBLAS may choose another kernel for another number


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_rows", [20, 32 * 19])
def test_float32_products_say_where_they_overflow(device, dtype, n_rows):
    rows = panels_of(n_rows, 24)
    total, flags = device.zeros((25, 25)), device.zeros((max(1, n_rows // 32),), np.uint8) + 9
    device.add_float32_panels(slab_of(device, rows, dtype), 32, total, flags, Workspace(device))
    single = rows.astype(np.float32).astype(float)
    assert not device.download(flags).any()
    assert np.allclose(device.download(total), single.T @ single, rtol=1e-5, atol=1e-5 * n_rows)
    rows[n_rows - 1, 3] = 1e25
    device.add_float32_panels(slab_of(device, rows, dtype), 32, total, flags, Workspace(device))
    assert device.download(flags).tolist() == [0] * (len(flags) - 1) + [1]


class CuttingOff(TorchDevice):
    """The processor, with products of 16-bit rows that are cut off as they are summed, more than by any card."""

    def _multiply(self, panels, out):
        if panels.dtype == out.dtype:
            super()._multiply(panels, out)
        else:
            for panel, product in zip(panels, out, strict=True):
                with np.errstate(over="ignore"):
                    product.copy_(torch.from_numpy(tensor_core_product(panel.double().numpy(), bits=20)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("n_panels", [1, 3])
def test_products_of_16_bit_rows_are_put_right_by_their_diagonals(dtype, n_panels):
    device = CuttingOff("cpu")
    rows = np.abs(np.random.default_rng(2).standard_normal((256 * n_panels, 41)))
    rows[:, 0], rows[:, 9] = 1.0, 0.0
    slab = slab_of(device, rows, dtype)
    wide = device.download(slab.double())
    exact = wide.T @ wide
    total, flags = device.zeros((41, 41)), device.zeros((n_panels,), np.uint8)
    device.add_float32_panels(slab, 256, total, flags, Workspace(device))
    found = device.download(total)
    cut_off = sum(tensor_core_product(panel, bits=20).astype(float) for panel in np.split(wide, n_panels))
    assert (np.diagonal(cut_off)[1:] < (1 - 1e-5) * np.diagonal(exact)[1:])[[*range(8), *range(9, 40)]].all()
    assert np.linalg.norm(found - exact) < 0.35 * np.linalg.norm(cut_off - exact)
    assert np.allclose(np.diagonal(found), np.diagonal(exact), rtol=1e-6, atol=0)
    assert np.allclose(found[:, 0], exact[:, 0], rtol=1e-6)
    assert not found[9].any()
    assert not device.download(flags).any()
    if dtype == "bfloat16":
        slab[-1, 5] = 1e30
        device.add_float32_panels(slab, 256, total, flags, Workspace(device))
        assert device.download(flags).tolist() == [0] * (n_panels - 1) + [1]


@pytest.mark.parametrize("power", [-66, -72, -76])
def test_squares_that_underflow_put_nothing_right(power):
    device = CuttingOff("cpu")
    rows = np.abs(np.random.default_rng(2).standard_normal((256, 41)))
    rows[:, 0], rows[:, 9] = 1.0, np.ldexp(rows[:, 9], power)
    slab = slab_of(device, rows, "bfloat16")
    wide, total = device.download(slab.double()), device.zeros((41, 41))
    device.add_float32_panels(slab, 256, total, device.zeros((1,), np.uint8), Workspace(device))
    assert np.allclose(device.download(total)[9, :9], wide[:, 9] @ wide[:, :9], rtol=1e-3, atol=0.0)


class Exact(TorchDevice):
    """The processor, with exact products of 16-bit rows of whole numbers."""

    def _multiply(self, panels, out):
        super()._multiply(panels.float(), out)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_known_products_of_16_bit_rows_are_exact(name):
    """A factor that is 1 but for a rounding would let the check of known products refuse every pass."""
    check_slabs(Exact("cpu"), named_type(name), name, in_float32=True)
    if torch.cuda.is_available():
        check_slabs(card(), named_type(name), name, in_float32=True)


def every_operation(device: TorchDevice, seen_of):
    """Yield the operations that a pass queues, on tensors of a device."""
    scratch, n_features, rows = Workspace(device), 20, 32 * 5
    total, zeros = device.zeros((1 + n_features,) * 2), device.zeros
    for name in ("float16", "bfloat16", "float32", "float64", "int8", "int64"):
        stored = device.stored_rows((rows, n_features), named_type(name))
        for panel_type in {"float64", name} & {"float64", "float32", "float16", "bfloat16"}:
            slab = device.slab((rows, 1 + n_features), panel_type)
            yield lambda s=stored, n=name, slab=slab: device.fill_slab(
                s, named_type(n), slab, seen_of(rows, n_features), 35
            )
    slab, other = (device.slab((rows, 1 + n_features), "float64") for _ in range(2))
    probes = [zeros((1 + n_features, 8)), zeros((1 + n_features, 8)), zeros((1 + n_features,))]
    yield lambda: device.unit_rows(slab, other)
    for some in (slab, slab[:20, :]):
        flags = zeros((max(1, some.shape[0] // 32),), np.uint8)
        yield lambda some=some: device.add_panels(some, 32, total, scratch)
        yield lambda some=some: device.add_probed(some, *probes, scratch)
        yield lambda some=some: device.add_probed_panels(some, 32, *probes, scratch)
        for name in ("float32", "float64", *(("float16", "bfloat16") if device.name != "cpu" else ())):
            narrow = device.slab((rows, 1 + n_features), name)[: some.shape[0], :]
            yield lambda n=narrow, f=flags: device.add_float32_panels(n, 32, total, f, scratch)


def seen_on(device: TorchDevice):
    return lambda n_rows, n_features: Seen(
        device.zeros((n_rows,), np.uint8), device.zeros((1,)), device.zeros((n_features,), np.uint8)
    )


def test_no_operation_of_a_pass_asks_for_a_number():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        called: list[str]

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.called.append(str(func))
            moved = func is torch.ops.aten._to_copy.default and (kwargs or {}).get("device") is not None
            if moved or any(word in str(func) for word in FORBIDDEN):
                raise AssertionError(f"{func} would wait for the card")
            return func(*args, **(kwargs or {}))

    watch = Watch()
    watch.called = []
    with watch:
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            torch.ones(1).item()
        watch.called.clear()
        for operation in every_operation(processor(), seen_on(processor())):
            operation()
    assert {"aten.bmm.out", "aten.aminmax.default", "aten.any.dim"} <= set(watch.called)


def test_operations_need_shapes_alone_on_a_card():
    """On tensors without values, a number that is asked for or a copy between devices is an error."""
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    if not torch.backends.cuda.is_built():
        pytest.skip("torch is built without CUDA")
    with fake.FakeTensorMode():
        with pytest.raises(fake.DataDependentOutputException):
            torch.ones(1, device="cuda:0").item()
        device = TorchDevice("cuda:0")
        for operation in every_operation(device, seen_on(device)):
            operation()


def test_no_operation_waits_on_a_card():
    device = card()
    stream = device.stream()
    with stream:
        for operation in every_operation(device, seen_on(device)):
            operation()  # loads kernels
        operations = list(every_operation(device, seen_on(device)))
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for operation in operations:
                operation()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    stream.record().wait()


def test_a_stream_waits_for_a_point_of_another_on_a_card():
    device = card()
    copying, computing = device.stream(), device.stream()
    host = device.pinned(2**26).view(np.float64).reshape(-1, 64)
    assert device.is_pinned(host)
    assert not device.is_pinned(host[:, :5])
    assert not device.is_pinned(np.ones((4, 4)))
    host[...] = 1.0
    with computing:
        there, sums = device.stored_rows(host.shape, named_type("float64")), device.zeros((50,))
    copying.wait(computing.record())
    for number in range(50):
        host[...] = number
        copying.copy(host, there)
        copied = copying.record()
        computing.wait(copied)
        with computing:
            sums[number].copy_(there.sum())
        copying.wait(computing.record())
        copied.wait()
    computing.record().wait()
    device.finish()
    assert device.download(sums).tolist() == [number * host.size for number in range(50)]


def test_a_card_adds_products_of_16_bit_rows_up_in_float32():
    device = card()
    rows = panels_of(16 * 1024, 256)
    for dtype in ("float16", "bfloat16"):
        slab = slab_of(device, rows, dtype)
        assert device.multiplies_exactly(named_type(dtype))
        exact = device.download(slab.double())
        exact = exact.T @ exact
        total, flags = device.zeros((257, 257)), device.zeros((16,), np.uint8)
        device.add_float32_panels(slab, 1024, total, flags, Workspace(device))
        found = device.download(total)
        assert not device.download(flags).any()
        assert np.linalg.norm(np.tril(found - exact)) < 1e-6 * np.trace(exact)
        assert np.allclose(np.diagonal(found), np.diagonal(exact), rtol=1e-6)


def test_switches_of_torch_are_noticed_on_a_card():
    device, matmul = card(), torch.backends.cuda.matmul
    device.check_settings("float32", "float16")
    matmul.allow_fp16_accumulation = True
    try:
        assert not device.multiplies_exactly(named_type("float16"))
        with pytest.raises(DeviceError, match="allow_fp16_accumulation = False"):
            device.check_settings("float32", "float16")
    finally:
        matmul.allow_fp16_accumulation = False
    device.check_settings("float32", "float16")
    assert device.multiplies_exactly(named_type("float16"))


def test_the_processor_of_torch_copies_at_once():
    device = processor()
    stream = device.stream()
    stored = np.arange(12, dtype=np.uint16).reshape(4, 3)
    there = device.stored_rows((4, 3), named_type("bfloat16"))
    with stream:
        stream.copy(stored, there)
    stream.wait(stream.record())
    assert np.array_equal(there.view(torch.int16).numpy().view(np.uint16), stored)
    assert not device.is_pinned(stored)
    assert device.pinned(10).nbytes == 10
    device.finish()
    device.check_settings("float32", "float16")
    assert device.taken_as(named_type("uint16")) == named_type("float64")
    assert device.taken_as(named_type("bfloat16")) == named_type("bfloat16")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"precision": "float32"}, {"normalize": True}], ids=str)
def test_a_pass_of_torch_holds_the_truth(device, monkeypatch, dtype, options):
    monkeypatch.setitem(registry.MODULES, "torchcpu", ("rankme_stream.numerics.devices.torch",))
    monkeypatch.setattr("rankme_stream.numerics.devices.torch.open_device", lambda index: device)
    rows = np.random.default_rng(4).standard_normal((5000, 40)) * np.arange(1, 41) ** -0.7
    rows[100:102] = 0.0
    stored = rows.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    found = rs.measure(stored, device="torchcpu", tolerance=1.0, **options)
    there = rs.measure(stored, tolerance=1.0, **options)
    exact = rs.metrics.rankme(np.linalg.svd(stored.astype(np.float64), compute_uv=False))
    assert found.rankme.lower - 1e-12 * exact <= exact <= found.rankme.upper + 1e-12 * exact
    assert found.rankme.upper - found.rankme.lower < 1e-3 * exact
    assert found.audit == there.audit
    assert found.device == device.name
    assert math.isclose(found.rankme.value, there.rankme.value, rel_tol=1e-5)


def test_rows_that_a_source_lends_are_copied_from_where_they_lie(monkeypatch):
    device, stored = TorchDevice("cpu"), np.arange(12, dtype=np.uint16).reshape(4, 3)
    lent = ArraySource(stored).read(1, 3)
    assert not lent.flags.writeable
    there = device.stored_rows((2, 3), named_type("bfloat16"))
    with warnings.catch_warnings(action="error"):
        device.stream().copy(lent, there)
        monkeypatch.setattr(device, "_is_cuda", True)
        monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: tensor.data_ptr() == lent.ctypes.data)
        assert device.is_pinned(lent)
        assert not device.is_pinned(stored)
    assert np.array_equal(there.view(torch.int16).numpy().view(np.uint16), stored[1:3])
