"""The same pass in every namespace: the standard alone, torch, a card where there is one; and whose array it is."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import array_api_strict
import ml_dtypes
import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream import devices, intervals
from rankme_stream.accumulators.gram import Float32GramAccumulator, GramAccumulator
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.cli import main
from rankme_stream.devices import Workspace
from rankme_stream.devices.host import HOST, Host
from rankme_stream.errors import DeviceError, MagnitudeError, NonFiniteError, SourceFormatError, UsageError
from rankme_stream.testing import AccumulatorLaws, matrix_with_spectrum, with_ones
from tests.test_state import store
from tests.toy_device import TOY

METHODS = [GramAccumulator, Float32GramAccumulator, TsqrAccumulator]


class ReadOnly(Host):
    """The host, with panels that nobody may write to."""

    def upload(self, values):
        lent = values.view()
        lent.flags.writeable = False
        return lent


READ_ONLY = ReadOnly()


@cache
def torch_on_cpu():
    pytest.importorskip("torch", reason="torch is not installed: make test EXTRAS=torch")
    from rankme_stream.devices.torch import TorchDevice

    return TorchDevice("cpu")


def card():
    try:
        return devices.device_named("cuda")
    except DeviceError as error:
        pytest.skip(str(error))


ALL = {
    "numpy": lambda: HOST,
    "read-only": lambda: READ_ONLY,
    "strict": lambda: TOY,
    "torch": torch_on_cpu,
    "cuda": card,
}
COMPUTED = [name for name in ALL if name != "read-only"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("method", METHODS)
class TestLaws(AccumulatorLaws):
    """The laws of every accumulator on every device."""

    @pytest.fixture(autouse=True)
    def chosen(self, name, method):
        self.device, self.method = ALL[name](), method

    def make(self, n_features):
        return self.method(n_features, Workspace(self.device))


def rows_of(n_rows: int, n_features: int, decay: float = 0.5) -> np.ndarray:
    planted = np.arange(1.0, n_features + 1) ** -decay
    return 30.0 * matrix_with_spectrum(planted, n_rows=n_rows, n_features=n_features) + 0.01


@pytest.fixture
def named(monkeypatch):
    """Let `measure` find every device here by a name: one line each."""

    def name_of(which: str) -> str:
        if which in ("numpy", "cuda"):
            ALL[which]()
            return {"numpy": "cpu", "cuda": "cuda"}[which]
        if which == "torch":
            monkeypatch.setitem(devices.MODULES, "torchcpu", ("rankme_stream.devices.torch",))
            monkeypatch.setattr("rankme_stream.devices.torch.open_device", lambda index: torch_on_cpu())
            torch_on_cpu()
            return "torchcpu"
        monkeypatch.setitem(devices.MODULES, "toy", ("tests.toy_device",))
        return "toy"

    return name_of


def overlap(one: rs.Estimate, other: rs.Estimate) -> bool:
    return one.lower <= other.upper and other.lower <= one.upper


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.parametrize("options", [{}, {"precision": "float32"}, {"method": "tsqr"}], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "uint16"])
def test_intervals_hold_the_truth_and_meet_those_of_numpy(named, name, options, dtype):
    dtype = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    rows = rows_of(3000, 24)
    rows = (rows - rows.min() if dtype.kind == "u" else rows).astype(dtype)
    device = named(name)
    asked = options | {"normalize": True, "dims": (7,), "tolerance": 1.0, "missing": "skip"}
    found, there = rs.measure(rows, **asked, device=device), rs.measure(rows, **asked)
    assert found.device == ALL[name]().name
    exact = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    slack = 1e-12 * rs.metrics.rankme(exact)
    assert found.rankme.lower - slack <= rs.metrics.rankme(exact) <= found.rankme.upper + slack
    for mine, theirs in (
        (found.estimates, there.estimates), (found.normalized, there.normalized), (found.dims[7], there.dims[7])
    ):  # fmt: skip
        for metric, one in mine.items():
            assert one.value is None or overlap(one, theirs[metric]), metric


@pytest.mark.parametrize("name", COMPUTED)
def test_a_sample_and_blocks_and_a_checkpoint_stay_on_the_device(named, name, tmp_path):
    rows = rows_of(60_000, 8).astype(np.float32)
    device = named(name)
    path = store(tmp_path / "a.zarr", rows)
    whole = rs.measure(path, device=device)
    sampled = rs.measure(path, sample=True, tolerance=0.01, device=device)
    assert sampled.sampling is not None
    assert overlap(sampled.rankme, whole.rankme)
    blocks = rs.measure(iter(np.array_split(rows, 7)), device=device)
    assert blocks.rankme == whole.rankme
    kept = tmp_path / "state"
    rs.segment(path, part=(0, 2), state=kept, device=device)
    part = rs.load_state(kept)
    rest = rs.segment(path, part=(1, 2), state=tmp_path / "rest", device=device)
    joined = rs.measure_state(rs.merge_states([part, rs.load_state(tmp_path / "rest")]))
    assert overlap(joined.rankme, whole.rankme)
    again = rs.segment(path, part=(1, 2), state=tmp_path / "rest", device=device)  # goes on from the file
    assert again.content() == rest.content()


@pytest.mark.parametrize("name", COMPUTED)
def test_faults_are_found_where_they_are(named, name):
    device = named(name)
    rows = rows_of(300, 5).astype(np.float32)
    rows[17, 3] = np.nan
    rows[40:42] = 0.0
    with pytest.raises(NonFiniteError, match="row 17 is not finite"):
        rs.measure(rows, device=device)
    audit = rs.measure(rows, device=device, nonfinite="skip", tolerance=1.0).audit
    assert audit == rs.measure(rows, nonfinite="skip", tolerance=1.0).audit
    assert (audit.rows_nonfinite, audit.first_nonfinite, audit.rows_zero, audit.first_zero) == (1, 17, 2, 40)
    with pytest.raises(MagnitudeError, match="row 3 holds values beyond 2"):
        rs.measure(np.where(np.arange(9)[:, None] == 3, 1e200, np.eye(9)), device=device)
    for dtype in (np.int64, np.uint64):
        integers = np.ones((9, 2), dtype)
        integers[4, 1] = 2**53 + 2
        with pytest.raises(MagnitudeError, match="row 4 holds integers beyond"):
            rs.measure(integers, device=device)


def containers(rows: np.ndarray):
    """The same rows in every container there is."""
    yield "read-only", np.frombuffer(rows.tobytes(), rows.dtype).reshape(rows.shape)
    yield "Fortran order", np.asfortranarray(rows)
    yield "big-endian", rows.astype(rows.dtype.newbyteorder(">"))
    yield "every second row", np.repeat(rows, 2, axis=0)[::2]
    if rows.dtype != np.float16:
        yield "strict", array_api_strict.asarray(rows)
    try:
        import torch
    except ImportError:
        return
    yield "torch", torch.from_numpy(rows)
    yield "torch, transposed", torch.from_numpy(np.ascontiguousarray(rows.T)).T
    yield "torch, a parameter", torch.nn.Parameter(torch.from_numpy(rows))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_bits_on_numpy_do_not_depend_on_the_container(dtype):
    rows = rows_of(500, 6).astype(dtype)
    wanted = rs.measure(rows).to_dict()["estimates"]
    for name, held in containers(rows):
        assert rs.measure(held).to_dict()["estimates"] == wanted, name
        assert rs.measure([held[:200, ...], held[200:, ...]]).to_dict()["estimates"] == wanted, name
        assert rs.RankMe().fit(held).rankme_ == rs.RankMe().fit(rows).rankme_, name


def test_bfloat16_of_torch_is_that_of_ml_dtypes():
    torch = pytest.importorskip("torch")
    rows = rows_of(500, 6).astype(ml_dtypes.bfloat16)
    lent = torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16)
    wanted = rs.measure(rows)
    for source in (lent, [lent[:300], lent[300:]]):
        found = rs.measure(source)
        assert (found.rankme, found.source["dtype"]) == (wanted.rankme, "bfloat16")
    assert rs.RankMe().fit(lent).rankme_ == rs.RankMe().fit(rows.astype(np.float64)).rankme_


@pytest.mark.parametrize("name", COMPUTED)
def test_metrics_take_the_arrays_of_every_library(name):
    values = np.array([3.0, 2.0, 0.5])
    assert rs.metrics.rankme(ALL[name]().upload(values)) == rs.metrics.rankme(values)
    assert rs.metrics.rankme([3.0, 2.0, 0.5]) == rs.metrics.rankme(values)


@pytest.mark.parametrize("name", [name for name in ALL if name != "numpy"])
def test_spectra_of_every_namespace_give_intervals_that_meet(name):
    rows = rows_of(700, 12, decay=1.0)
    boxes = []
    for device in (HOST, ALL[name]()):
        accumulator = GramAccumulator(12, Workspace(device))
        for start in range(0, 700, 100):
            accumulator.update(device.upload(with_ones(rows[start : start + 100])), start)
        boxes.append(accumulator.spectrum(unit_roundoff=2.0**-53).raw.consistent)
    for extremes in (intervals.entropy_rank, intervals.participation_ratio, intervals.stable_rank):
        (low, high), (least, most) = map(extremes, boxes)
        assert low <= most
        assert least <= high


def test_what_lies_on_two_devices_does_not_mix(named):
    rows = rows_of(40, 3)
    here, there = (GramAccumulator(3, Workspace(device)) for device in (HOST, TOY))
    with pytest.raises(UsageError, match="what is on toy:0 cannot join what is on cpu"):
        here.merge(there)
    toys = named("strict")

    class Lent:
        """Rows that somebody says are on a card."""

        def __dlpack__(self, **_):
            raise BufferError

        def __dlpack_device__(self):
            return 2, 0

    with pytest.raises(DeviceError, match=r"device cuda:0: .*is not installed|finds"):
        rs.measure(Lent())
    Lent.__dlpack_device__ = lambda self: (8, 0)
    with pytest.raises(SourceFormatError, match="DLPack kind 8"):
        rs.measure(Lent())
    with pytest.raises(DeviceError, match=r"device toy:1: there is one toy"):
        rs.measure(rows, device=f"{toys}:1")


def test_a_dask_cluster_computes_on_processors(tmp_path, named):
    path = store(tmp_path / "a.zarr", rows_of(40, 3))
    with pytest.raises(UsageError, match="leave device out"):
        rs.measure(path, engine="dask", device=named("strict"))


@pytest.mark.skipif("cupy" in sys.modules, reason="CuPy is here")
def test_without_cuda_one_line_says_what_to_install(tmp_path, capsys):
    try:
        devices.device_named("cuda")
    except DeviceError:
        pass
    else:
        pytest.skip("a card is here")
    path = store(tmp_path / "a.zarr", rows_of(40, 3))
    for name in ("cuda", "cuda:1"):
        with pytest.raises(SystemExit, match="5"):
            main(["score", str(path), "--device", name])
        out, error = capsys.readouterr()
        assert out == ""
        assert error.count("\n") == 1
        assert error.startswith(f"rankme: error: device {name}: CuPy ")
        assert "rankme-stream[cuda12]" in error or "finds no" in error
    with pytest.raises(SystemExit, match="2"):
        main(["score", str(path), "--device", "gpu"])
    assert "device 'gpu' is not one of cpu, cuda" in capsys.readouterr().err


def test_a_new_device_is_one_file_and_one_line(tmp_path, named):
    path = store(tmp_path / "a.zarr", rows_of(4000, 6))
    with pytest.raises(SystemExit) as end:
        main(["score", str(path), "--device", named("strict"), "--json", str(tmp_path / "a.json"), "--quiet"])
    assert not end.value.code
    assert rs.measure(path, device="toy").provenance["workers"][0]["device"] == "toy:0"
    assert '"device": "toy:0"' in (tmp_path / "a.json").read_text()


def test_importing_the_package_imports_no_library_of_devices():
    text = (
        "import sys, numpy as np, rankme_stream as rs; rs.measure(np.eye(3)); "
        "print({'torch', 'cupy', 'array_api_compat'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_tensors_that_are_not_dense_or_elsewhere_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(SourceFormatError, match=r"layout torch\.sparse_coo"):
        rs.measure(torch.eye(3).to_sparse())
    with pytest.raises(SourceFormatError, match="is on meta"):
        rs.measure(torch.empty((3, 3), device="meta"))
    with pytest.raises(SourceFormatError, match="complex"):
        rs.measure(torch.eye(3).to(torch.complex64))
