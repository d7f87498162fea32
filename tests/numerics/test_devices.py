"""The same pass in every namespace: the standard, torch, a card where there is one; and the device of an array."""

from __future__ import annotations

import copy
import ctypes
import pickle
import re
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import array_api_compat.numpy as array_api_numpy
import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from scipy.linalg import cython_lapack

import rankme_stream as rs
from rankme_stream.accumulators.float32_gram import Float32GramAccumulator
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.row_gram import RowGramAccumulator
from rankme_stream.accumulators.row_qr import RowQrAccumulator
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.cli.commands import main
from rankme_stream.errors import (
    ArithmeticCheckError,
    DeviceError,
    LimitError,
    MagnitudeError,
    NonFiniteError,
    SourceFormatError,
    UsageError,
)
from rankme_stream.numerics.decoding import Decoding
from rankme_stream.numerics.devices import cuda_settings, host, registry
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.devices.host import HOST, Host
from rankme_stream.numerics.dtypes import StoredType
from rankme_stream.passes.loop import card_run
from rankme_stream.passes.loop.card_run import CardRunner
from rankme_stream.passes.planning import card_layout
from rankme_stream.sources import ArraySource
from rankme_stream.spectra import intervals
from rankme_stream.testing import AccumulatorLaws, matrix_with_spectrum, with_ones
from tests.dumps import store
from tests.toy_device import TOY, ToyIsFullError

METHODS = [GramAccumulator, Float32GramAccumulator, TsqrAccumulator, RowGramAccumulator, RowQrAccumulator]


class ReadOnly(Host):
    """The host, with panels that nobody may write to."""

    def upload(self, values):
        lent = values.view()
        lent.flags.writeable = False
        return lent


READ_ONLY = ReadOnly()


class Narrow(StandardDevice):
    """A device that multiplies float16 rows as they are, as cards do, and adds up in a type of its own."""

    def __init__(self, sums):
        super().__init__(array_api_numpy, "narrow:0", types=("float16", "float32", "float64"))
        self.sums, self.products = sums, 0

    def multiplies_exactly(self, kind):
        return kind.name == "float16"

    def set_product(self, left, right, out):
        if left.dtype == np.float16:
            self.products += 1
            left, right = left.astype(np.float32), right.astype(np.float32)
            out[...] = (left.T @ right).astype(self.sums)
        else:
            super().set_product(left, right, out)


@cache
def torch_on_cpu():
    pytest.importorskip("torch", reason="torch is not installed")
    from rankme_stream.numerics.devices.torch import TorchDevice

    return TorchDevice("cpu")


def card():
    try:
        return registry.device_named("cuda")
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
            monkeypatch.setitem(registry.MODULES, "torchcpu", ("rankme_stream.numerics.devices.torch",))
            monkeypatch.setattr("rankme_stream.numerics.devices.torch.open_device", lambda index: torch_on_cpu())
            torch_on_cpu()
            return "torchcpu"
        monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))
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
def test_a_sample_and_blocks_stay_on_the_device(named, name, tmp_path):
    rows = rows_of(60_000, 8).astype(np.float32)
    device, wanted = named(name), ALL[name]().name
    path = store(tmp_path / "a.zarr", rows)
    whole = rs.measure(path, device=device)
    sampled = rs.measure(path, sample=True, tolerance=0.01, device=device)
    assert sampled.sampling is not None
    assert overlap(sampled.rankme, whole.rankme)
    blocks = rs.measure(iter(np.array_split(rows, 7)), device=device)
    assert blocks.rankme == whole.rankme
    for one in (whole, sampled, blocks):
        assert one.device == wanted
        assert one.provenance["workers"][0].get("device", "cpu") == wanted


@pytest.mark.parametrize("name", COMPUTED)
def test_a_pass_goes_on_on_the_device_that_it_began_on_and_on_another(named, name, tmp_path, monkeypatch):
    rows = np.random.default_rng(5).standard_normal((40_000, 512), dtype=np.float32)  # three segments, each a run
    monkeypatch.setattr(card_layout, "_RUN_BYTES", 2**20)
    is_interrupted, read = threading.Event(), CardRunner.read

    def read_later(runner, nodes):
        for node, found in read(runner, nodes):
            yield node, found
            if not is_interrupted.is_set():  # one run is done
                reached.append(node)
                runner.stop.wait(10)

    device = named(name)
    path, kept = store(tmp_path / "a.zarr", rows), tmp_path / "kept"
    whole = rs.measure(path, device=device, workers=1)

    reached: list[object] = []
    monkeypatch.setattr(CardRunner, "read", read_later)

    def stop(done):
        if reached or (name == "numpy" and done.rows_done > 20_000):
            is_interrupted.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rs.measure(path, device=device, workers=1, checkpoint=kept, progress=stop)
    begun = rs.load_state(kept)
    assert begun.covered
    assert begun.missing
    (tmp_path / "other").write_bytes(kept.read_bytes())
    again = rs.measure(path, device=device, workers=1, checkpoint=kept)
    if name in ("numpy", "strict"):  # others take as many threads as they like to solve
        assert again.rankme == whole.rankme
    assert overlap(again.rankme, whole.rankme)
    elsewhere = rs.measure(path, checkpoint=tmp_path / "other")
    assert overlap(elsewhere.rankme, whole.rankme)
    assert elsewhere.provenance["bits_reproducible"] == (name == "numpy")
    parts = [
        rs.segment(path, part=(k, 2), state=tmp_path / f"{k}", device=["cpu", device][k], workers=1) for k in range(2)
    ]
    assert overlap(rs.measure_state(rs.merge_states(parts)).rankme, whole.rankme)
    assert parts[1].workers[0].get("device", "cpu") == ALL[name]().name


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
    assert rs.metrics.rankme(values.astype(ml_dtypes.bfloat16)) == rs.metrics.rankme(values)
    if name == "torch":
        assert rs.metrics.rankme(ALL[name]().upload(values).bfloat16()) == rs.metrics.rankme(values)


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


class Lent:
    """Rows that somebody says are on some device."""

    kind = (2, 0)

    def __dlpack__(self, **_):
        raise BufferError("nothing is lent")

    def __dlpack_device__(self):
        return self.kind


def test_arrays_on_two_devices_do_not_mix(named, monkeypatch):
    rows = rows_of(40, 3)
    here, there = (GramAccumulator(3, Workspace(device)) for device in (HOST, TOY))
    with pytest.raises(UsageError, match="rows on toy:0 cannot join rows on cpu"):
        here.merge(there)
    toys = named("strict")
    monkeypatch.setattr(registry, "_DLPACK_KINDS", {1: "cpu", 77: "toy"})
    monkeypatch.setattr(TOY.xp, "from_dlpack", lambda one: one.rows)

    class OnToy(Lent):
        kind = (77, 0)
        rows = TOY.upload(rows_of(40, 3))

    assert rs.measure(OnToy()).device == "toy:0"
    assert overlap(rs.measure(OnToy()).rankme, rs.measure(rows).rankme)
    blocks = rs.measure([OnToy(), OnToy()])
    assert (blocks.device, blocks.rows_read) == ("toy:0", 80)
    with pytest.raises(SourceFormatError, match="block 1 is on cpu, and the first was on toy:0: bring all to one"):
        rs.measure([OnToy(), rows])
    monkeypatch.setitem(registry.MODULES, "othertoy", ("rankme_stream.numerics.devices.host",))
    with pytest.raises(UsageError, match=r"is on toy:0, and device is cpu: leave it out"):
        rs.measure(OnToy(), device="othertoy")
    estimator = rs.RankMe().fit(OnToy())
    with pytest.raises(UsageError, match="rows on cpu cannot join rows on toy:0"):
        estimator.partial_fit(rows)
    assert estimator.partial_fit(OnToy()).n_samples_seen_ == 80
    with pytest.raises(DeviceError, match=r"device toy:1: there is one toy"):
        rs.measure(rows, device=f"{toys}:1")
    with pytest.raises(DeviceError, match="there is one host"):
        rs.measure(rows, device="cpu:1")


def test_lapack_is_given_integers_of_the_size_that_it_declares(monkeypatch):
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    signature = name(cython_lapack.__pyx_capi__["dtpqrt"]).decode()
    declared = re.fullmatch(r"void \((.*)\)", signature)[1].replace("*", "").split(", ")
    given, call = [], host._dtpqrt
    monkeypatch.setattr(host, "_dtpqrt", lambda *arguments: (given.extend(arguments), call(*arguments)))
    r, below = np.eye(3, order="F"), np.ones((4, 3), order="F")
    gram = r.T @ r + below.T @ below
    host.stack_triangle(r, below, 0, Workspace())
    assert np.allclose(np.triu(r).T @ np.triu(r), gram, rtol=1e-14)
    assert len(declared) == len(given)
    for kind, argument in zip(map(str.strip, declared), given, strict=True):
        if kind.endswith("_d"):
            assert isinstance(argument, int)  # the address of an array
        else:
            assert ctypes.sizeof(argument._obj) == (4 if kind == "int" else 8)


@pytest.mark.parametrize("n_bytes, kind", [(4, ctypes.c_int32), (8, ctypes.c_int64)])
def test_the_size_of_lapacks_integers_is_what_scipy_says_of_it(n_bytes, kind):
    assert host._integer_of(SimpleNamespace(_blas_int_size=lambda: n_bytes)) is kind
    assert host._integer_of(SimpleNamespace()) is ctypes.c_int32


def test_memory_that_is_not_lent_is_refused():
    lent = Lent()
    with pytest.raises((DeviceError, SourceFormatError), match=r"device cuda:0: |does not share"):
        rs.measure(lent)
    lent.kind = (8, 0)
    with pytest.raises(SourceFormatError, match="DLPack kind 8"):
        rs.measure(lent)
    with pytest.raises(SourceFormatError, match=r"block 0 has 2 members: name the one .*, such as key=0"):
        rs.measure(iter([(np.ones((3, 2)), np.ones(3))]))


def test_dense_rows_of_a_device_enter_the_bound_of_qr():
    rows = rows_of(600, 9)
    bounds = []
    for device in (HOST, TOY):
        accumulator = TsqrAccumulator(9, Workspace(device))
        accumulator.update(device.upload(with_ones(rows)), 0)
        assert accumulator.longest == 600 + 10 * (device is TOY)
        bounds.append(accumulator.worst_case)
    assert bounds[1] > bounds[0]


def test_estimators_are_pickled_copied_and_go_on():
    for device in (HOST, TOY):
        accumulator = GramAccumulator(3, Workspace(device))
        accumulator.update(device.upload(with_ones(rows_of(40, 3))), 0)
        if device is HOST:
            for again in (pickle.loads(pickle.dumps(accumulator)), copy.deepcopy(accumulator)):
                assert again.device is device
                assert again.merge(accumulator).n_rows == 80
    estimator = rs.RankMe().fit(rows_of(40, 3))
    again = pickle.loads(pickle.dumps(estimator))
    assert again.partial_fit(rows_of(40, 3)).merge(estimator).n_samples_seen_ == 120


def test_rows_that_are_refused_leave_no_trace_in_an_estimator():
    good, bad = rows_of(3000, 8), rows_of(3000, 8)
    bad[-1] = 1e200
    estimator = rs.RankMe().fit(good)
    with pytest.raises(MagnitudeError):
        estimator.partial_fit(bad)
    wanted = rs.RankMe().fit(good).partial_fit(good)
    assert estimator.partial_fit(good).n_samples_seen_ == 6000
    assert estimator.interval_ == wanted.interval_


def test_without_cuda_one_line_says_what_to_install(tmp_path, capsys):
    try:
        registry.device_named("cuda")
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
        assert "rankme-stream[torch]" in error or "PyTorch finds no" in error
    with pytest.raises(SystemExit, match="2"):
        main(["score", str(path), "--device", "gpu"])
    assert "--device is 'gpu' and must be one of cpu, cuda" in capsys.readouterr().err


def test_a_new_device_is_one_file_and_one_line(tmp_path, named):
    path = store(tmp_path / "a.zarr", rows_of(4000, 6))
    with pytest.raises(SystemExit) as end:
        main(["score", str(path), "--device", named("strict"), "--json", str(tmp_path / "a.json"), "--quiet"])
    assert not end.value.code
    found = rs.measure(path, device="toy")
    assert found.provenance["workers"][0]["device"] == "toy:0"
    assert "gram in float64 on toy:0, " in str(found)
    assert '"device": "toy:0"' in (tmp_path / "a.json").read_text()


def test_the_table_of_a_plan_says_what_threads_do_beside_a_card(tmp_path, named, capsys):
    path = store(tmp_path / "a.zarr", rows_of(4000, 6))
    for device, words in ((named("strict"), "which read, and one thread for the card"), ("cpu", "at once")):
        with pytest.raises(SystemExit):
            main(["plan", str(path), "--workers", "3", "--device", device])
        assert re.search(rf"^  workers     3, .*{words}$", capsys.readouterr().out, re.MULTILINE)


ON_CARD = [
    {}, {"precision": "float32"}, {"method": "tsqr"}, {"method": "rsvd", "rank": 30},
    {"method": "frequent-directions", "rank": 30}, {"method": "row-sketch"},
]  # fmt: skip


def held_by(source, options):
    """Return the plan of a pass on the toy, what it predicts for this process, and the bytes that were held."""
    rs.measure(source, **options)  # what is loaded and kept is not counted
    tracemalloc.start()
    try:
        plan = rs.measure(source, **options).plan
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return plan, plan.predicted_peak_bytes - plan.memory["process"] - plan.memory["libraries"], peak


@pytest.mark.parametrize("options", ON_CARD, ids=str)
@pytest.mark.parametrize("normalize", [False, True])
def test_what_a_card_holds_is_predicted(options, normalize, named):
    rows = rows_of(5000, 120).astype(np.float32)
    options = {"device": named("strict"), "tolerance": 1e9, "workers": 2, "normalize": normalize} | options
    plan, here, peak = held_by(rows, options)
    assert 0.3 * plan.card_peak_bytes < peak < plan.card_peak_bytes + here  # the toy lives on the host
    assert plan.card_peak_bytes <= sum(plan.card.values())
    assert rs.measure(rows, tolerance=1e9).plan.card == {}


@pytest.mark.parametrize(
    "groups, slot_bytes", [(None, 2**16), ("rows:700", 2**16), ("labels", 2**16), ("labels", 2**20)]
)
def test_what_slots_and_groups_hold_is_predicted(named, monkeypatch, tmp_path, groups, slot_bytes):
    monkeypatch.setattr("rankme_stream.passes.planning.plan.SLOT_BYTES", (slot_bytes,))
    monkeypatch.setattr(card_layout, "_RUN_BYTES", 2**20)
    rows = rows_of(12_000, 120).astype(np.float32)
    path = store(tmp_path / "a.zarr", rows, chunk=100)
    labels = np.random.default_rng(0).integers(0, 20, len(rows))  # 20 Gram matrices
    asked = {"method": "gram", "device": named("strict"), "groups": labels if groups == "labels" else groups}
    plan, here, peak = held_by(path, asked)
    assert 0.3 * (plan.card_peak_bytes + here) < peak < plan.card_peak_bytes + here


def test_a_card_with_little_memory_is_given_smaller_blocks_and_fewer_slots(named, monkeypatch, tmp_path, capsys):
    path = store(tmp_path / "a.zarr", rows_of(20_000, 30).astype(np.float32), chunk=100)
    monkeypatch.setattr("rankme_stream.passes.planning.plan.SLOT_BYTES", (2**19, 2**17, 2**15))
    asked = {"method": "gram", "device": named("strict"), "workers": 2}
    found, refused = [rs.measure(path, **asked)], ""
    while not refused:
        free = found[-1].plan.card_peak_bytes
        monkeypatch.setattr(TOY, "free_bytes", lambda free=free: free)
        enough = rs.plan(path, **asked)
        assert (enough.card, enough.card_limit_bytes) == (found[-1].plan.card, free)
        monkeypatch.setattr(TOY, "free_bytes", lambda free=free: free - 1)
        try:
            found.append(rs.measure(path, **asked))
        except LimitError as error:
            refused = str(error)
    plans = [one.plan for one in found]
    assert len({(plan.block_rows, plan.reads_ahead) for plan in plans}) == len(plans) > 2
    assert plans[-1].block_rows < plans[0].block_rows
    assert not plans[-1].reads_ahead
    assert all(one.rankme == found[0].rankme for one in found)
    least = f"{-(-plans[-1].card_peak_bytes // 2**20)} MiB"
    assert f"the pass needs {least} on the card at least" in refused

    with pytest.raises(SystemExit, match="4"):
        main(["score", str(path), "--device", "toy"])
    assert f"needs {least} on the card at least" in capsys.readouterr().err
    monkeypatch.setattr(TOY, "free_bytes", lambda: plans[-1].card_peak_bytes)
    with pytest.raises(SystemExit) as end:
        main(["plan", str(path), "--method", "gram", "--device", "toy"])
    assert not end.value.code
    mebibytes = f"{plans[-1].card_peak_bytes / 2**20:,.0f} MiB"
    assert f"  card        {mebibytes} predicted, {mebibytes} free" in capsys.readouterr().out
    monkeypatch.setattr(TOY, "free_bytes", lambda: 2**20)
    blocks = iter(np.array_split(rows_of(20_000, 30), 3))
    with pytest.raises(LimitError, match="are free there; leave device out"):
        rs.measure(blocks, device="toy", workers=1)


def test_a_card_that_runs_full_is_one_line(named, monkeypatch, tmp_path, capsys):
    path = store(tmp_path / "a.zarr", rows_of(500, 20))

    def full(*_):
        raise ToyIsFullError("out of memory:\n  tried to allocate 3 PiB")

    monkeypatch.setattr(TOY, "add_product", full)
    with pytest.raises(SystemExit, match="4"):
        main(["score", str(path), "--device", named("strict")])
    assert "no memory is left (out of memory: tried to allocate 3 PiB); take fewer --workers" in capsys.readouterr().err


@pytest.mark.parametrize("changed_at", [1, 2, None])
def test_settings_are_checked_before_a_pass_and_after_each_of_its_runs(named, monkeypatch, changed_at):
    asked = []

    def check(precision, panel_type):
        asked.append((precision, panel_type))
        if len(asked) == changed_at:
            raise DeviceError("SOME_SETTING is set to 1")

    monkeypatch.setattr(TOY, "check_settings", check)
    rows, device = rows_of(3000, 24).astype(np.float32), named("strict")
    if changed_at:
        with pytest.raises(DeviceError, match="SOME_SETTING is set to 1"):
            rs.measure(rows, device=device, precision="float32", tolerance=1.0)
        assert len(asked) == changed_at
    else:
        rs.measure(rows, device=device, precision="float32", tolerance=1.0)
        assert asked == [("float32", "float32")] * 2
        rs.measure(rows, device=device, method="tsqr")
        assert asked[2:] == [("float64", "float64")] * 2


def test_importing_the_package_imports_no_library_of_devices():
    text = (
        "import sys, numpy as np, zarr; before = set(sys.modules); import rankme_stream as rs; rs.measure(np.eye(3)); "
        "print({'torch', 'cupy', 'array_api_compat'} & (set(sys.modules) - before))"  # zarr takes CuPy where it is
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_tensors_that_are_not_dense_or_elsewhere_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(SourceFormatError, match=r"torch\.sparse_coo: make it dense"):
        rs.measure(torch.eye(3).to_sparse())
    with pytest.raises(SourceFormatError, match="is on meta"):
        rs.measure(torch.empty((3, 3), device="meta"))
    for dtype in (torch.complex64, torch.float8_e4m3fn):
        with pytest.raises(SourceFormatError, match=r"complex64|float8"):
            rs.measure(torch.eye(3).to(dtype))

    class Named(torch.Tensor):
        """A subclass, as libraries on top of torch make them."""

    rows = torch.from_numpy(rows_of(50, 4)).bfloat16()
    assert rs.measure(rows.as_subclass(Named)).rankme == rs.measure(rows).rankme
    assert rs.measure(rows.clone().requires_grad_()).rankme == rs.measure(rows).rankme


def test_types_of_one_name_join_and_others_do_not():
    torch = pytest.importorskip("torch")
    rows = rows_of(50, 4).astype(ml_dtypes.bfloat16)
    lent = torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16)
    twice = rs.measure(np.concatenate([rows, rows]))
    assert rs.measure([rows, lent]).rankme == rs.measure([lent, rows]).rankme == twice.rankme
    with pytest.raises(SourceFormatError, match="block 1 is uint16 of width 4, and the first was bfloat16"):
        rs.measure([lent, rows.view(np.uint16)])


@pytest.fixture
def narrow(monkeypatch):
    """Let `measure` find a device that multiplies 16-bit rows as they are by the name ``narrow``."""

    def adding_in(sums) -> Narrow:
        device = Narrow(sums)
        monkeypatch.setattr("tests.toy_device.open_device", lambda index: device)
        monkeypatch.setitem(registry.MODULES, "narrow", ("tests.toy_device",))
        return device

    return adding_in


def test_rows_of_16_bits_are_multiplied_as_they_are_where_a_device_can(narrow, tmp_path):
    device = narrow(np.float32)
    rows = rows_of(5000, 24).astype(np.float16)
    rows[70] = np.inf
    path = store(tmp_path / "a.zarr", rows)
    asked = {"device": "narrow", "precision": "float32", "nonfinite": "skip", "tolerance": 1.0}
    found = rs.measure(path, **asked)
    assert device.products == 5  # of 4,096 rows and the rest, after three that are known
    exact = rs.metrics.rankme(np.linalg.svd(np.delete(rows, 70, axis=0).astype(float), compute_uv=False))
    assert found.rankme.lower <= exact <= found.rankme.upper < found.rankme.lower * 1.001
    there = rs.measure(path, **asked | {"device": "cpu"})
    assert (found.audit, found.rows_read) == (there.audit, there.rows_read)
    assert all(overlap(one, there[name]) for name, one in found.estimates.items() if one.value is not None)
    sampled = {"sample": True, "tolerance": 0.3}
    for options in ({"precision": "float64"}, {"normalize": True}, {"method": "tsqr", "precision": "float64"}, sampled):
        rs.measure(path, **asked | options)
    rs.measure(np.delete(rows, 70, axis=0).astype(np.float32), **asked)
    assert device.products == 5


@pytest.mark.parametrize("n_features", [2, 24, 200])
def test_products_stored_in_16_bits_are_found_out(narrow, n_features, monkeypatch):
    device = narrow(np.float16)
    rows = rows_of(3000, n_features).astype(np.float16)
    exact = rs.metrics.rankme(np.linalg.svd(rows.astype(float), compute_uv=False))
    with pytest.raises(ArithmeticCheckError, match=r"narrow:0 computes wrongly: a sum of products .* of float16"):
        rs.measure(rows, device="narrow", precision="float32", tolerance=1.0)
    monkeypatch.setattr(card_run, "check_slabs", lambda *arguments, **options: None)  # as if it erred with others only
    try:
        found = rs.measure(rows, device="narrow", precision="float32", tolerance=1.0).rankme
    except ArithmeticCheckError as error:
        assert "BLAS or the machine is at fault" in str(error)  # noqa: PT017 - or else the interval says so
    else:
        assert found.lower <= exact <= found.upper
        assert found.upper - found.lower > 1e-6 * exact
    assert device.products


@pytest.mark.filterwarnings("ignore::rankme_stream.errors.ToleranceWarning")
def test_rows_are_weighed_in_float64_where_they_are_multiplied_in_16_bits(narrow, tmp_path):
    rng = np.random.default_rng(0)
    rows = (100.0 * rng.standard_normal((60_000, 16)) * rng.pareto(1.5, (60_000, 1)).clip(0, 100)).astype(np.float16)
    path = store(tmp_path / "a.zarr", rows)
    narrow(np.float32)
    for options in ({"sample": True, "tolerance": 0.3}, {"population": True}):
        asked = {"precision": "float32", "tolerance": 0.3} | options
        found, there = (rs.measure(path, **asked, device=name) for name in ("narrow", "cpu"))
        assert found.rows_read == there.rows_read
        assert (found.rankme.reason, found.rankme.covers) == (there.rankme.reason, there.rankme.covers)
        assert found.rankme.lower is None or overlap(found.rankme, there.rankme)


def test_products_of_16_bit_rows_are_tried_before_they_are_used():
    half, single = (StoredType(name, np.dtype(name)) for name in ("float16", "float32"))
    assert cuda_settings.adds_in_float32(Narrow(np.float32), half)
    assert not cuda_settings.adds_in_float32(Narrow(np.float16), half)
    assert not cuda_settings.adds_in_float32(Narrow(np.float32), single)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_torch_has_products_of_16_bit_rows_on_cards_alone(name):
    kind = StoredType(name, np.dtype(np.uint16 if name == "bfloat16" else name))
    assert not torch_on_cpu().multiplies_exactly(kind)
    assert not cuda_settings.adds_in_float32(torch_on_cpu(), kind)


def test_a_card_multiplies_16_bit_rows_as_they_are():
    device, rows = card(), rows_of(3000, 24).astype(np.float16)
    assert device.multiplies_exactly(StoredType("float16", np.dtype(np.float16)))
    there, out = device.upload(rows), device.zeros((9, 15), np.float32)
    device.set_product(there[:, :9], there[:, 9:], out)
    exact = rows[:, :9].astype(float).T @ rows[:, 9:].astype(float)
    assert np.abs(device.download(out) - exact).max() < 1e-4 * np.abs(exact).max()
    found = rs.measure(rows, device="cuda", precision="float32", tolerance=1.0).rankme
    true = rs.metrics.rankme(np.linalg.svd(rows.astype(float), compute_uv=False))
    assert found.lower <= true <= found.upper


def test_fewer_rows_than_features_are_kept_and_multiplied_on_the_device(named):
    rows = np.random.default_rng(0).standard_normal((300, 900)).astype(np.float32)
    options = {"device": named("strict"), "tolerance": 1e-9, "normalize": True, "dims": (20, 500)}
    wanted = rs.measure(rows, tolerance=1e-9, normalize=True, dims=(20, 500))
    tracemalloc.start()
    try:
        found = rs.measure(rows, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.method == wanted.method == "row-gram"
    for mine, theirs in ((found.dims[d], wanted.dims[d]) for d in (20, 500)):
        assert mine["rankme"].value == pytest.approx(theirs["rankme"].value, rel=1e-9)
    assert found["participation_ratio"].value == pytest.approx(wanted["participation_ratio"].value, rel=1e-12)
    plan = found.plan
    here = plan.predicted_peak_bytes - plan.memory["process"] - plan.memory["libraries"]
    assert 0.3 * plan.card_peak_bytes < peak < plan.card_peak_bytes + here


@pytest.mark.parametrize("name", COMPUTED)
def test_numbers_are_decoded_before_a_device_gets_them(named, name):
    device = named(name)
    rows = np.random.default_rng(5).integers(-127, 128, (300, 5)).astype(np.int8)
    rows[17, 3] = -128
    rows[40:42] = 50
    source = ArraySource(rows)
    source.stored = replace(source.stored, decoding=Decoding(scale=0.1, offset=-5.0, nodata=(-128,)))
    found = rs.measure(source, device=device, nonfinite="skip", tolerance=1.0)
    wanted = rs.measure(np.delete(rows, 17, axis=0) * 0.1 - 5.0, tolerance=1.0)
    assert overlap(found.rankme, wanted.rankme)
    on_host = rs.measure(source, nonfinite="skip", tolerance=1.0).audit
    assert found.audit == on_host
    assert (found.audit.first_nonfinite, found.audit.rows_zero) == (17, 2)


def test_a_library_that_finds_no_eigenvalues_is_one_of_our_errors():
    card = StandardDevice(array_api_numpy, "a card")
    bad = np.full((3, 3), np.nan)
    for solve in (card.eigenvalues, card.eigenvectors, card.singular_values):
        with pytest.raises(ArithmeticCheckError, match="a card found no eigenvalues: "):
            solve(bad)
