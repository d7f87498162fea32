"""Passes on a card whose work is done at random moments: every schedule has the bits of a plain loop, and needs every
wait of the program.
"""

from __future__ import annotations

import ast
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest

from rankme_stream.accumulators.method import Arithmetic, Size
from rankme_stream.errors import MissingChunksError
from rankme_stream.numerics import machine
from rankme_stream.numerics.devices.device import Adopted, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.passes.engines import card_engine, local
from rankme_stream.passes.loop import card_run, slot_feed
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning import plan as planning
from rankme_stream.passes.planning.grid import Grid
from rankme_stream.passes.planning.memory import CardLimits, RowLayout, Workload
from rankme_stream.passes.state.audit import Rules
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.passes.state.partial_result import PartialResult, accumulator_of
from rankme_stream.sources import ArraySource, NpySource, ZarrSource
from rankme_stream.sources.concat import ConcatSource
from tests.async_toy import PLAIN, AsyncToy, Readers, Schedule, Site, spoil
from tests.dumps import store

D, GRID, CHUNK, FIRST, LAST = 5, Grid(16, 64), 29, 7, 343
HALF = 150  # rows in the first of several stores
MISSING = range(3 * CHUNK, 4 * CHUNK)
SKIP = Rules(missing="skip", nonfinite="skip", zeros="skip")
KINDS = ["zarr", "several", "npy", "pageable", "pinned", "card"]
Bits = dict[str, Any]


class Case(NamedTuple):
    """A pass, and what must not change its bits: kind of source, slots, rows of a block, workers, panels of a slab,
    level of a run.
    """

    dtype: str
    precision: Any
    normalize: bool
    kind: str = "pageable"
    slots: int = 6
    block_rows: int = 1000
    workers: int = 1
    slab_panels: int = 4
    level: int = 3
    rules: Rules = SKIP

    @classmethod
    def drawn(cls, seed: int, kind: str, precision: str) -> Case:
        """Return a random one."""
        draw = Random(f"{seed} {kind} {precision}")
        return cls(
            draw.choice(["float16", "float32", "float64", "int16"]), precision, draw.random() < 0.3, kind,
            draw.randint(2, 6), draw.choice([8, 24, 64, 200]), draw.randint(1, 4), draw.choice([1, 2, 4]),
            draw.randint(0, 3),
        )  # fmt: skip


@lru_cache(maxsize=4)
def rows_of(dtype: str) -> np.ndarray:
    """Return rows with a chunk, and one row more, of zeros, and a few that are not finite."""
    rows = (100.0 * np.random.default_rng(0).standard_normal((LAST, D))).astype(dtype)
    rows[[*MISSING, 200]] = 0
    if rows.dtype.kind == "f":
        rows[30, 2], rows[130:140, 4], rows[340, 0] = np.nan, np.inf, -np.inf
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the rows of each type in files; the chunk of zeros is missing in the stores."""
    made = tmp_path_factory.mktemp("rows")
    for dtype in ("float16", "float32", "float64", "int16"):
        store(made / f"{dtype}.zarr", rows_of(dtype), CHUNK)
        assert not (made / f"{dtype}.zarr/c/3/0").exists()  # zarr writes no chunk of fill values
        np.save(made / f"{dtype}.npy", rows_of(dtype))
        store(made / f"{dtype}-1.zarr", rows_of(dtype)[:HALF], 10)
        store(made / f"{dtype}-2.zarr", rows_of(dtype)[HALF:], 30)
    return made


class Runner:
    """Runs passes of cases on a device, with all that is theirs made small."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._patch, self._folder = monkeypatch, folder
        monkeypatch.setattr(card_engine, "check_products", lambda *arguments, **options: None)

    def plays(self, schedule: Schedule) -> None:
        """Let a schedule play the threads that read as well."""
        self._patch.setattr(slot_feed, "ThreadPoolExecutor", lambda *arguments, **options: Readers(schedule))

    def tree(self, case: Case, device: Any) -> MergeTree[PartialResult]:
        """Return the results of a pass whose rows are spoiled as soon as it is over."""
        source, rows = self._source(case, device)
        workload = Workload(Arithmetic("gram", case.precision), Size(D), normalize=case.normalize, seed=1)
        layout = RowLayout((FIRST, LAST), 8, source.bounds(FIRST, LAST), source.read_memory)
        card = None if device is HOST else CardLimits(0, has_host=False)
        plan = replace(
            planning.make_plan(workload, layout, machine.limits(case.workers, None), card), grid=GRID, probe_seed=1,
            block_rows=case.block_rows, slab_rows=case.slab_panels * GRID.panel_rows,
        )  # fmt: skip
        spec = PassSpec(source, plan, accumulator_of(plan), case.normalize, case.rules, case.normalize, device)
        tree = MergeTree[PartialResult]()
        with self._patch.context() as patch:
            patch.setattr(planning, "slots", lambda *, reads_ahead: case.slots)
            patch.setattr(local, "run_level", lambda *sizes: case.level)
            local.run_into(tree, spec)
        if isinstance(rows, np.ndarray):
            spoil(rows)
        elif rows is not None:
            rows[...] = 77
        return tree

    def _source(self, case: Case, device: Any) -> tuple[Any, Any]:
        """Return a source, and its rows if they can be spoiled."""
        rows = rows_of(case.dtype)
        if case.kind == "zarr":
            return ZarrSource(self._folder / f"{case.dtype}.zarr"), None
        if case.kind == "several":
            return ConcatSource([ZarrSource(self._folder / f"{case.dtype}-{part}.zarr") for part in (1, 2)]), None
        if case.kind == "npy":
            return NpySource(self._folder / f"{case.dtype}.npy"), None
        if case.kind == "card":
            held = device.upload(rows)
            return ArraySource(Adopted(device, held)), held
        held = (
            device.pinned(rows.nbytes) if case.kind == "pinned" and device is not HOST else np.empty(rows.nbytes, "u1")
        )
        held = held.view(rows.dtype).reshape(rows.shape)
        held[...] = rows
        return ArraySource(held), held


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Runner:
    return Runner(monkeypatch, folder)


def bits_of(tree: MergeTree[PartialResult]) -> Bits:
    """Return the bits of the state of each accumulator, and of the norms of the rows."""
    total = tree.total()
    states = {key: one.to_arrays() for key, one in total.accumulators.items()}
    return {
        **{f"{key} {name}": value.tobytes() for key, state in states.items() for name, value in state.items()},
        **asdict(total.row_norms),
    }  # fmt: skip


BY_SLABS = {"squares", "fourth_powers", "exponent"} | {
    f"{key} {name}" for key in ("raw", "unit") for name in ("probes_products", "probes_sums")
}  # fmt: skip
_REFERENCES: dict[Case, Bits] = {}


def reference(runner: Runner, case: Case) -> Bits:
    """Return the bits of the same pass on a device that does its work at once, from rows in memory in one block.

    Its slabs are of another length, except for what is summed slab by slab: norms of the rows, probes, and products of
    16-bit rows.
    """
    plain = Case(*case[:3])
    for one in (plain, plain._replace(slab_panels=case.slab_panels)):
        if one not in _REFERENCES:
            _REFERENCES[one] = bits_of(runner.tree(one, PLAIN))
    by_slabs = {name: bits for name, bits in _REFERENCES[one].items() if name in BY_SLABS}
    if case.dtype == "float16" and case.precision == "float32" and not case.normalize:  # products of 16-bit rows
        by_slabs = _REFERENCES[one]
    return _REFERENCES[plain] | by_slabs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_pass_that_does_its_work_at_once_is_a_plain_loop(runner: Runner, kind: str, precision: str, dtype: str):
    case = Case(dtype, precision, False, kind, block_rows=24, slab_panels=1)
    tree = runner.tree(case, PLAIN)
    spec = Workload(Arithmetic("gram", precision), Size(D), seed=1)
    rows = rows_of(dtype).astype(np.float64)
    kept = np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1)
    panel_type = "float64" if precision == "float64" else PLAIN.panel_type(ArraySource(rows_of(dtype)).stored)
    with_ones = (np.where(kept[:, None], np.column_stack([np.ones(LAST), rows]), 0.0)).astype(panel_type)
    loop = MergeTree[Any]()
    for segment in GRID.segments(FIRST, LAST):
        first, last = max(FIRST, segment * GRID.segment_rows), min(LAST, (segment + 1) * GRID.segment_rows)
        options = {} if precision == "float64" else {"seed": 1}
        one = spec.method.accumulator(precision)(D, Workspace(PLAIN), **options)
        for start, stop in GRID.panels(first, last):
            one.queue(with_ones[start:stop], GRID.panel_rows, np.zeros(1, np.uint8))
        one.note(np.ones(D, bool))
        loop.add(segment, one)
    wanted = {f"raw {name}": value.tobytes() for name, value in loop.total().to_arrays().items()}
    found = bits_of(tree)
    assert {name: found[name] for name in wanted} == wanted
    assert tree.total().audit == runner.tree(case, HOST).total().audit if kind != "card" else True


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_random_schedules_have_the_bits_of_the_plain_loop(runner: Runner, kind: str, precision: str) -> None:
    for seed in ["early", "late", *range(20)]:
        schedule = Schedule(seed)
        runner.plays(schedule)
        case = Case.drawn(hash(seed) % 2**16, kind, precision)
        assert bits_of(runner.tree(case, AsyncToy(schedule))) == reference(runner, case), (seed, case)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_read_do_so_at_any_moment(runner: Runner, kind: str) -> None:
    for seed in range(3):
        case = Case.drawn(seed, kind, "float64")
        assert bits_of(runner.tree(case, AsyncToy(Schedule(seed)))) == reference(runner, case), (seed, case)


Program = Callable[[Runner, Schedule, int], tuple[Bits, Bits]]


def _one_pass(runner: Runner, schedule: Schedule, seed: int) -> tuple[Bits, Bits]:
    """Run a random pass, and return the bits found and wanted."""
    case = Case.drawn(seed, KINDS[seed % len(KINDS)], "float64")
    return bits_of(runner.tree(case, AsyncToy(schedule))), reference(runner, case)


def _after_a_failure(runner: Runner, schedule: Schedule, seed: int) -> tuple[Bits, Bits]:
    """Run a pass on a card where another just failed."""
    card, case = AsyncToy(schedule), Case.drawn(seed, KINDS[seed % 2], "float64")
    with pytest.raises(MissingChunksError):
        runner.tree(case._replace(rules=SKIP._replace(missing="error")), card)
    gc.collect()  # the error refers to the streams
    return bits_of(runner.tree(case, card)), reference(runner, case)


def _two_passes(runner: Runner, schedule: Schedule, seed: int) -> tuple[Bits, Bits]:
    """Begin another pass while the results of one are being merged."""
    card, case = AsyncToy(schedule), Case.drawn(seed, KINDS[seed % len(KINDS)], "float64")
    tree = runner.tree(case, card)
    total = MergeTree[PartialResult]()
    total.add(0, tree.total())
    del tree
    runner.tree(case, card)
    return bits_of(total), reference(runner, case)


PROGRAMS: list[Program] = [_one_pass, _after_a_failure, _two_passes]
WAITS = {slot_feed: ("wait", "result", "finish", "record"), card_run: ("wait", "result", "finish", "record"),
         card_engine: ("finish", "record")}  # fmt: skip


def _waits() -> dict[str, Site]:
    """Return all calls in the programs of the feed that wait for something, or say what others wait for."""
    found: dict[str, Site] = {}
    for module, names in WAITS.items():
        file = str(module.__file__)
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
        scopes = [one for one in ast.walk(tree) if isinstance(one, ast.ClassDef | ast.FunctionDef)]
        for call in (one for one in ast.walk(tree) if isinstance(one, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr in names:
                site = Site(file, call.lineno, call.end_lineno or call.lineno)
                within = [one.name for one in scopes if one.lineno <= site.first <= (one.end_lineno or 0)]
                if site not in found.values():
                    found[f"{Path(file).stem}: {'.'.join(within)}: {ast.unparse(call)}"] = site
    return found


@pytest.mark.parametrize("wait", _waits())
def test_no_wait_can_be_left_out(runner: Runner, wait: str) -> None:
    left_out = (_waits()[wait],)
    for seed in range(40):
        for program in PROGRAMS:
            schedule = Schedule(seed, left_out)
            runner.plays(schedule)
            with ThreadPoolExecutor(1) as pool:
                outcome = pool.submit(program, runner, schedule, seed)
                error = outcome.exception()
            if error is not None or outcome.result()[0] != outcome.result()[1]:
                return
    pytest.fail(f"no schedule needs {wait}")


def test_the_programs_are_right_with_all_waits(runner: Runner) -> None:
    for seed in range(20):
        for program in PROGRAMS:
            schedule = Schedule(seed)
            runner.plays(schedule)
            found, wanted = program(runner, schedule, seed)
            assert found == wanted, (program, seed)
