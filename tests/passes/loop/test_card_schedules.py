"""Passes on a card whose work is done at random moments: every schedule has the bits of a plain loop, and needs every
wait of the program.
"""

from __future__ import annotations

import ast
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from rankme_stream.accumulators.method import Arithmetic, Size
from rankme_stream.errors import NonFiniteError
from rankme_stream.numerics import machine
from rankme_stream.numerics.devices.device import Adopted, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.passes.engines import card_engine, local
from rankme_stream.passes.loop import card_run, slot_feed
from rankme_stream.passes.loop.card_run import CardRunner
from rankme_stream.passes.loop.segment import Interrupted, PassSpec
from rankme_stream.passes.planning import plan as planning
from rankme_stream.passes.planning.block_layout import block_ranges
from rankme_stream.passes.planning.grid import Grid
from rankme_stream.passes.planning.workload import CardLimits, RowLayout, Workload
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
TYPES = ["float16", "float32", "float64", "int16"]
STORES = ["zarr", "several"]
KINDS = [*STORES, "npy", "pageable", "pinned", "card"]
SEEDS = ["early", "late", *range(15)]
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

    @classmethod
    def drawn(cls, seed: int | str, kind: str, precision: str) -> Case:
        """Return a random one."""
        draw = Random(f"{seed} {kind} {precision}")
        types = [*TYPES, "bfloat16"] if kind in ("pageable", "pinned") else TYPES  # one that the card does not take
        return cls(
            draw.choice(types), precision, draw.random() < 0.3, kind, draw.randint(2, 6), draw.choice([8, 24, 64, 200]),
            draw.randint(1, 4), draw.choice([1, 2, 4]), draw.randint(0, 3),
        )  # fmt: skip


@lru_cache(maxsize=4)
def rows_of(dtype: str) -> np.ndarray:
    """Return rows with a chunk, and one row more, of zeros, and a few that are not finite."""
    rows = (100.0 * np.random.default_rng(0).standard_normal((LAST, D))).astype(
        ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    )
    rows[[*MISSING, 200]] = 0
    if dtype != "int16":
        rows[30, 2], rows[130:140, 4], rows[340, 0] = np.nan, np.inf, -np.inf
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the rows of each type in files; the chunk of zeros is missing in the stores."""
    made = tmp_path_factory.mktemp("rows")
    for dtype in TYPES:
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
        for module, name in ((card_engine, "check_products"), (card_run, "check_slabs")):
            monkeypatch.setattr(module, name, lambda *arguments, **options: None)

    def plays(self, schedule: Schedule) -> None:
        """Let a schedule play the threads that read as well."""
        self._patch.setattr(slot_feed, "blas_threads", SimpleNamespace(threads=lambda count, name: Readers(schedule)))

    def tree(self, case: Case, device: Any, rules: Rules = SKIP) -> MergeTree[PartialResult]:
        """Return the results of a pass whose rows are spoiled as soon as it is over."""
        spec, rows = self._spec(case, device, rules)
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

    def interrupt(self, case: Case, device: Any) -> None:
        """Stop a pass at its third slab."""
        spec, _ = self._spec(case, device)
        blocks = block_ranges(spec.source.bounds(FIRST, LAST), FIRST, LAST, case.block_rows, 8 * GRID.segment_rows)
        stop, done = threading.Event(), list[int]()

        def progress(n_rows: int) -> None:
            done.append(n_rows)
            if len(done) == 3:
                stop.set()

        work = CardRunner(spec, blocks, stop, progress)
        with pytest.raises(Interrupted):
            list(work.read([(3, 0)]))
        work.close()

    def _spec(self, case: Case, device: Any, rules: Rules = SKIP) -> tuple[PassSpec, Any]:
        """Return a pass, and its rows if they can be spoiled."""
        source, rows = self._source(case, device)
        workload = Workload(Arithmetic("gram", case.precision), Size(D), normalize=case.normalize, seed=1)
        layout = RowLayout((FIRST, LAST), 8, source.bounds(FIRST, LAST), source.read_memory)
        card = None if device is HOST else CardLimits(0, has_host=False)
        plan = replace(
            planning.make_plan(workload, layout, machine.limits(case.workers, None), card), grid=GRID, probe_seed=1,
            block_rows=case.block_rows, slab_rows=case.slab_panels * GRID.panel_rows, unit_rows=3 * case.normalize,
        )  # fmt: skip
        make = accumulator_of(plan)

        def make_accumulator(*arguments: Any, **options: Any) -> Any:
            device.zeros((4096,))  # as sketches, which need memory for a moment when they begin
            return make(*arguments, **options)

        return PassSpec(source, plan, make_accumulator, case.normalize, rules, device), rows

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
        held = device.pinned(rows.nbytes) if case.kind == "pinned" else np.empty(rows.nbytes, np.uint8)
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
    found = bits_of(runner.tree(case, PLAIN))
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
        one.set_nonzero(np.ones(D, bool))
        loop.add(segment, one)
    wanted = {f"raw {name}": value.tobytes() for name, value in loop.total().to_arrays().items()}
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize("kind", ["zarr", "npy"])
def test_faults_and_witnesses_are_those_of_a_pass_on_the_host(runner: Runner, kind: str) -> None:
    case = Case("float64", "float64", False, kind, block_rows=24)
    found, wanted = (runner.tree(case, device).total() for device in (AsyncToy(Schedule(0)), HOST))
    assert (found.audit, found.witnesses) == (wanted.audit, wanted.witnesses)
    assert found.audit.rows_nonfinite == 12 and found.witnesses.digests


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_random_schedules_have_the_bits_of_the_plain_loop(runner: Runner, kind: str, precision: str) -> None:
    for seed in SEEDS:
        schedule, case = Schedule(seed), Case.drawn(seed, kind, precision)
        runner.plays(schedule)
        assert bits_of(runner.tree(case, AsyncToy(schedule))) == reference(runner, case), (seed, case)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_read_do_so_at_any_moment(runner: Runner, kind: str) -> None:
    for seed in range(3):
        case = Case.drawn(seed, kind, "float64")
        assert bits_of(runner.tree(case, AsyncToy(Schedule(seed)))) == reference(runner, case), (seed, case)


@pytest.mark.parametrize("kind", STORES)
def test_the_first_fault_is_named_whenever_it_is_found(runner: Runner, kind: str) -> None:
    for seed in SEEDS:
        schedule, case = Schedule(seed), Case.drawn(seed, kind, "float64")._replace(dtype="float32", block_rows=24)
        runner.plays(schedule)
        with pytest.raises(NonFiniteError, match="row 30 "):  # in a block before that of a missing chunk
            runner.tree(case, AsyncToy(schedule), Rules())


def _one_pass(runner: Runner, schedule: Schedule, case: Case) -> Bits:
    """Return the bits of a pass."""
    return bits_of(runner.tree(case, AsyncToy(schedule)))


def _after_an_interrupt(runner: Runner, schedule: Schedule, case: Case) -> Bits:
    """Return the bits of a pass on a card where another was just stopped."""
    card = AsyncToy(schedule)
    runner.interrupt(case, card)
    gc.collect(1)  # the error refers to the streams
    return bits_of(runner.tree(case, card))


def _two_passes(runner: Runner, schedule: Schedule, case: Case) -> Bits:
    """Return the bits of a pass whose results are merged while another begins."""
    card, total = AsyncToy(schedule), MergeTree[PartialResult]()
    total.add(0, runner.tree(case, card).total())
    runner.tree(case, card)
    return bits_of(total)


def _inside_a_stream(runner: Runner, schedule: Schedule, case: Case) -> Bits:
    """Return the bits of a pass that a program begins inside of a stream of its own, where its rows are made."""
    card = AsyncToy(schedule)
    with card.stream():
        return bits_of(runner.tree(case, card))


Program = Callable[[Runner, Schedule, Case], Bits]
PROGRAMS: list[Program] = [_one_pass, _after_an_interrupt, _two_passes, _inside_a_stream]
WAITS = {slot_feed: ("wait", "result", "finish", "record"), card_run: ("wait", "result", "finish", "record"),
         card_engine: ("finish", "record")}  # fmt: skip


def _waits() -> dict[str, Site]:
    """Return all places in the programs of the feed that wait, say what others wait for, or put work in a stream."""
    found: dict[str, Site] = {}
    for module, names in WAITS.items():
        file = str(module.__file__)
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
        scopes = [one for one in ast.walk(tree) if isinstance(one, ast.ClassDef | ast.FunctionDef)]
        calls = [one for one in ast.walk(tree) if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute)]
        streams = [one.items[0].context_expr for one in ast.walk(tree) if isinstance(one, ast.With)]
        for place in [
            *(call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in names),
            *(one for one in streams if isinstance(one, ast.Attribute) and one.attr != "_lock"),
        ]:
            site = Site(file, place.lineno, place.end_lineno or place.lineno)
            within = [one.name for one in scopes if one.lineno <= site.first <= (one.end_lineno or 0)]
            if site not in found.values():
                name = f"{Path(file).stem}: {'.'.join(within)}: {ast.unparse(place)}"
                found[name if name not in found else f"{name}, again"] = site
    assert len(found) == len(set(found.values()))
    return found


def _programs(seeds: list[int | str]) -> Iterator[tuple[int | str, Program, Case]]:
    for seed, kind, program in product(seeds, KINDS, PROGRAMS):
        yield seed, program, Case.drawn(f"{seed} {program.__name__}", kind, "float64")


@pytest.mark.parametrize("wait", _waits())
def test_no_wait_can_be_left_out(runner: Runner, wait: str) -> None:
    left_out = (_waits()[wait],)
    with ThreadPoolExecutor(1) as pool:
        for seed, program, case in _programs(["late", *range(8)]):
            schedule = Schedule(seed, left_out)
            runner.plays(schedule)
            outcome = pool.submit(program, runner, schedule, case)
            if outcome.exception() is not None or outcome.result() != reference(runner, case):
                return
    pytest.fail(f"no schedule needs {wait}")


def test_programs_are_right_with_all_waits(runner: Runner) -> None:
    for seed, program, case in _programs(["late", *range(3)]):
        schedule = Schedule(seed)
        runner.plays(schedule)
        assert program(runner, schedule, case) == reference(runner, case), (seed, program, case)
