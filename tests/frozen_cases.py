"""Small passes whose results are frozen in ``data/frozen.json``: what is run, and the form in which it is kept.

Only public names are called, so that the cases outlive any rearrangement of the package. Inputs come from the raw bits
of PCG64, which numpy promises never to change, and from additions, multiplications and divisions, which IEEE 754 fixes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import scipy.linalg  # loads its BLAS, which the signature names
import zarr
from threadpoolctl import threadpool_info

import rankme_stream as rs
from rankme_stream.errors import CheckpointWarning, RankMeError, ToleranceWarning

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data"
EXPECTED = DATA / "frozen.json"
LIMIT = 2**34  # bytes; fixed, because the default follows the machine. Nothing here comes near it
FIXED: dict[str, Any] = {"workers": 2, "memory_limit": LIMIT}

# ---------------------------------------------------------------------------------------------------------- inputs


def uniform(n_rows: int, n_features: int, seed: int) -> np.ndarray:
    """Return multiples of 2^-53 in [-0.5, 0.5)."""
    raw = np.random.PCG64(seed).random_raw(n_rows * n_features)
    return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5).reshape(n_rows, n_features)


def rows_of(n_rows: int, n_features: int, seed: int, decay: float = 1.0, mean: float = 0.1) -> np.ndarray:
    """Return float64 rows whose columns fall off as 1 / (1 + decay j), turned a little so that they correlate."""
    rows = uniform(n_rows, n_features, seed) / (1.0 + decay * np.arange(n_features))
    return rows + 0.25 * rows[:, ::-1] + mean


class Tiled:
    """A ``Source`` of a caller's own: the same rows again and again, so that many need little memory."""

    uri, integrity, chunks_missing, first_missing = "<tiled>", "none", 0, None

    def __init__(self, rows: np.ndarray, n_rows: int) -> None:
        self._rows, self.shape, self.stored = rows, (n_rows, rows.shape[1]), rs.open_source(rows).stored
        self.tail_start = n_rows

    def bounds(self, start: int, stop: int) -> range:
        return range((start // 1_000 + 1) * 1_000, stop, 1_000)

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        return np.take(self._rows, range(start, stop), axis=0, mode="wrap", out=out)

    def read_memory(self, n_rows: int) -> int:
        return 2 * n_rows * self._rows[0].nbytes

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        return []

    def reopen(self) -> None:
        return None

    def identity(self) -> dict[str, object]:
        return {"dtype": "float32", "n_features": self.shape[1], "codecs": []}

    def fingerprint(self, start: int, stop: int) -> str:
        return f"{start}:{stop}"


class World:
    """Inputs in memory and on disk, and a cluster; each is made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    def close(self) -> None:
        self._stack.close()

    @cached_property
    def client(self) -> Any:
        """Two processes of one thread; they start in seconds, so every case of the Dask engine shares them."""
        from distributed import Client, LocalCluster

        cluster = LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit="2GiB"
        )
        return self._stack.enter_context(Client(self._stack.enter_context(cluster)))

    @cached_property
    def long(self) -> np.ndarray:
        """Rows of three segments."""
        return rows_of(140_000, 6, seed=1).astype(np.float32)

    @cached_property
    def broad(self) -> np.ndarray:
        """Rows wide enough for every metric, the slope of the spectrum among them."""
        return rows_of(2_000, 40, seed=2, decay=0.2).astype(np.float32)

    @cached_property
    def medium(self) -> np.ndarray:
        """Rows of several segments, wide enough for a sketch."""
        return rows_of(70_000, 24, seed=3, decay=0.5).astype(np.float32)

    @cached_property
    def wide(self) -> Tiled:
        """Rows as wide and as many as it takes for float32 to pay."""
        return Tiled(rows_of(4_096, 512, seed=7, decay=0.01).astype(np.float32), 165_000)

    @cached_property
    def steep(self) -> np.ndarray:
        """Rows whose last columns are lost where they are squared: the Gram matrix is not enough for them."""
        return rows_of(3_000, 12, seed=4) * 2.0 ** (-4.0 * np.arange(12)) + 1.0

    @cached_property
    def holes(self) -> np.ndarray:
        """Rows some of which are not finite, and some zero throughout."""
        rows = self.long[:70_000].copy()
        rows[7, 2], rows[66_000, 0], rows[66_001, 5] = np.nan, np.inf, -np.inf
        rows[[11, 12, 69_999]] = 0.0
        return rows

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels of uneven groups of 6,000 rows, sorted."""
        return np.sort((uniform(6_000, 1, seed=5)[:, 0] + 0.5) ** 2 * 24).astype(np.int64)

    @cached_property
    def shuffled(self) -> np.ndarray:
        """The same labels in another order."""
        return self.labels[np.argsort(np.random.PCG64(6).random_raw(6_000), kind="stable")]

    @cached_property
    def store(self) -> Path:
        return self._stored("long.zarr", self.long, 10_000)

    @cached_property
    def medium_store(self) -> Path:
        return self._stored("medium.zarr", self.medium, 6_000)

    @cached_property
    def sharded(self) -> Path:
        return self._stored("sharded.zarr", self.long, 2_000, shards=(20_000, 6))

    @cached_property
    def gap(self) -> Path:
        """A store one chunk of which was never written."""
        path = self.folder / "gap.zarr"
        array = zarr.create_array(path, shape=(24_000, 6), chunks=(3_000, 6), dtype="float32", fill_value=0.5)
        array[:9_000], array[12_000:] = self.long[:9_000], self.long[12_000:24_000]
        return path

    @cached_property
    def npy(self) -> Path:
        np.save(self.folder / "broad.npy", self.broad)
        return self.folder / "broad.npy"

    def empty_store(self, n_rows: int, n_features: int, dtype: str) -> Path:
        """Return a store without rows: a plan reads no more than what describes them."""
        path = self.folder / f"empty-{n_rows}-{n_features}-{dtype}.zarr"
        if not path.exists():
            zarr.create_array(path, shape=(n_rows, n_features), chunks=(4_096, n_features), dtype=dtype)
        return path

    def _stored(self, name: str, rows: np.ndarray, chunk: int, **layout: Any) -> Path:
        path = self.folder / name
        zarr.create_array(path, shape=rows.shape, chunks=(chunk, rows.shape[1]), dtype=rows.dtype, **layout)[:] = rows
        return path


def inputs(world: World) -> dict[str, str]:
    """Return a hash of every input: where one differs, no result can agree."""
    made = {name: getattr(world, name) for name in ("long", "broad", "medium", "steep", "holes", "labels", "shuffled")}
    return {name: _sha(np.ascontiguousarray(one).tobytes()) for name, one in made.items()}


# ----------------------------------------------------------------------------------------------------------- cases

Case = Callable[[World], Any]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        assert name not in CASES
        CASES[name] = function
        return function

    return add


def _measured(world: World, source: Any, **options: Any) -> dict[str, Any]:
    return rs.measure(source, **FIXED | options).to_dict()


def _passes(name: str, source: Callable[[World], Any], **options: Any) -> None:
    CASES[name] = lambda world: _measured(
        world, source(world), **{key: value(world) if callable(value) else value for key, value in options.items()}
    )


_passes("auto", lambda w: w.broad, normalize=True, dims=(1, 7, 40))
_passes("auto falls back to tsqr", lambda w: w.steep, tolerance=1e-9)
_passes("auto of several segments", lambda w: w.long, normalize=True)
_passes("gram", lambda w: w.broad, method="gram", normalize=True)
_passes("gram misses the tolerance", lambda w: w.steep, method="gram", tolerance=1e-13)
_passes("gram float32", lambda w: w.broad, method="gram", precision="float32", normalize=True, tolerance=0.1)
_passes("gram float32 of several segments", lambda w: w.long, method="gram", precision="float32", tolerance=0.1)
_passes("precision auto", lambda w: w.broad, precision="auto", tolerance=0.01)
_passes("precision auto is refused float32", lambda w: w.broad, precision="auto", tolerance=1e-8)
_passes("precision auto takes float32", lambda w: w.wide, precision="auto", tolerance=0.01)
_passes("tsqr", lambda w: w.broad, method="tsqr", normalize=True, dims=(5,))
_passes("tsqr of several segments", lambda w: w.long, method="tsqr")
for _passes_wanted in (1, 2, 3):
    _passes(
        f"rsvd in {_passes_wanted} passes", lambda w: w.medium, method="rsvd", rank=6, oversampling=4,
        passes=_passes_wanted, tolerance=1e-6 if _passes_wanted < 3 else 1e-12, normalize=_passes_wanted != 3,
    )  # fmt: skip
_passes("rsvd of another seed", lambda w: w.broad, method="rsvd", rank=5, oversampling=3, seed=11, passes=2)
_passes("rsvd stops early", lambda w: w.broad, method="rsvd", rank=5, oversampling=3, passes=3, tolerance=0.9)
_passes(
    "frequent-directions", lambda w: w.medium, method="frequent-directions", rank=6, normalize=True, tolerance=0.5
)  # fmt: skip
_passes("row-sketch", lambda w: w.long, method="row-sketch", normalize=True, tolerance=0.1)
_passes(
    "row-sketch of another seed and size", lambda w: w.medium, method="row-sketch", rank=400, seed=3, confidence=0.8
)
_passes("rows in a range", lambda w: w.store, rows=(65_000, 135_001))
_passes("rows of an open range", lambda w: w.long, rows=(None, 777), dims=(2,))
_passes("rows that are not finite are skipped", lambda w: w.holes, nonfinite="skip", normalize=True)
_passes("rows that are not finite, by tsqr", lambda w: w.holes, nonfinite="skip", method="tsqr")
_passes("rows that are not finite, by rsvd", lambda w: w.holes, nonfinite="skip", method="rsvd", rank=2, oversampling=1)
_passes("a missing chunk is skipped", lambda w: w.gap, missing="skip", normalize=True)
_passes("a missing chunk is filled", lambda w: w.gap, missing="fill")
_passes("a missing chunk is skipped, in groups", lambda w: w.gap, missing="skip", groups="rows:5000")
_passes("one worker", lambda w: w.store, workers=1, normalize=True)
_passes("four workers", lambda w: w.store, workers=4, normalize=True)
_passes("shards", lambda w: w.sharded, workers=3)
_passes("npy", lambda w: w.npy, normalize=True)
_passes("fewer rows than features", lambda w: w.broad[:15], normalize=True)
_passes("one row", lambda w: w.broad[:1], normalize=True)
_passes("float16", lambda w: w.broad.astype(np.float16), normalize=True)
_passes("bfloat16", lambda w: w.broad.astype(ml_dtypes.bfloat16), groups="rows:700")
_passes("float64", lambda w: rows_of(2_000, 9, seed=8), method="gram")
_passes("float64 in Fortran order, big-endian", lambda w: np.asfortranarray(rows_of(900, 9, seed=8)).astype(">f8"))
_passes("int8", lambda w: (w.broad * 200).astype(np.int8), normalize=True)
_passes("uint16", lambda w: ((w.broad + 4) * 5000).astype(np.uint16), method="tsqr")
_passes("huge and tiny values", lambda w: rows_of(500, 6, seed=9) * np.array([2.0**470, 1, 1, 1, 1, 2.0**-470]))
_passes("groups of runs of rows", lambda w: w.broad, groups="rows:450", normalize=True)
_passes("groups, sorted labels", lambda w: w.long[:6_000], groups=lambda w: w.labels)
_passes("groups, shuffled labels", lambda w: w.long[:6_000], groups=lambda w: w.shuffled, confidence=0.9)
_passes("groups of words", lambda w: w.long[:6_000], groups=lambda w: np.array(["north", "süd", "x"])[w.shuffled % 3])
_passes("groups over segments", lambda w: w.long, groups="rows:50000", method="tsqr")
_passes("groups by float32", lambda w: w.broad, groups="rows:900", method="gram", precision="float32", tolerance=0.1)
_passes("groups of a row sketch", lambda w: w.long, groups="rows:70000", method="row-sketch", tolerance=0.2)
for _seed in (0, 1, 12345):
    _passes(f"sample of seed {_seed}", lambda w: w.long, sample=True, tolerance=0.02, seed=_seed, normalize=True)
_passes("sample for the population", lambda w: w.long, sample=True, population=True, tolerance=0.02, dims=(3,))
_passes("sample that ends at its most rows", lambda w: w.long, sample=True, max_rows=9_000, tolerance=1e-5)
_passes("sample of a store", lambda w: w.store, sample=True, tolerance=0.1, confidence=0.9, seed=2)
_passes("sample in float32", lambda w: w.long, sample=True, tolerance=0.05, precision="auto")
_passes("sample in a range", lambda w: w.long, sample=True, rows=(100, 700), tolerance=0.05)
_passes("population of all rows", lambda w: w.long[:9_000], population=True, tolerance=0.1)
_passes("Dask", lambda w: w.store, engine="dask", client=lambda w: w.client, normalize=True)
_passes("Dask by tsqr", lambda w: w.store, engine="dask", client=lambda w: w.client, method="tsqr", groups="rows:70000")
_passes(
    "Dask in two passes", lambda w: w.medium_store, engine="dask", client=lambda w: w.client, method="rsvd", rank=6,
    oversampling=4, passes=2, tolerance=1e-6,
)  # fmt: skip


@case("blocks that come once")
def _blocks(world: World) -> Any:
    """Measure streams; of their windows' plans the largest is kept, and which one that is depends on the process."""
    return {
        name: _without_memory(_measured(world, iter(np.array_split(rows, 7)), **options))
        for name, rows, options in (
            ("auto", world.long, {"normalize": True}),
            ("tsqr", world.broad, {"method": "tsqr", "dims": (4,)}),
            ("skip", world.holes, {"nonfinite": "skip", "method": "gram", "precision": "float32", "tolerance": 0.1}),
            ("row-sketch", world.long, {"method": "row-sketch", "tolerance": 0.1}),
        )
    }


def _without_memory(result: dict[str, Any]) -> dict[str, Any]:
    plan = {key: value for key, value in result["plan"].items() if key not in ("memory", "predicted_peak_bytes")}
    return result | {"plan": plan}


@case("several sources")
def _each(world: World) -> Any:
    found = rs.measure_each([world.broad, str(world.folder / "absent.zarr"), world.npy], **FIXED)
    return [_error(one) if isinstance(one, RankMeError) else one.to_dict() for _, one in found]


_STATES: dict[str, dict[str, Any]] = {
    "gram": {"source": "store", "normalize": True},
    "gram float32": {"source": "store", "method": "gram", "precision": "float32", "tolerance": 0.1},
    "tsqr": {"source": "store", "method": "tsqr", "normalize": True},
    "rsvd": {"source": "medium_store", "method": "rsvd", "rank": 6, "oversampling": 4, "tolerance": 1.0, "seed": 5},
    "rsvd in two passes": {
        "source": "medium_store", "method": "rsvd", "rank": 6, "oversampling": 4, "passes": 2, "tolerance": 1e-6,
    },
    "frequent-directions": {"source": "medium_store", "method": "frequent-directions", "rank": 6, "tolerance": 1.0},
    "row-sketch": {"source": "store", "method": "row-sketch", "tolerance": 1.0},
    "groups": {"source": "store", "groups": "rows:30000"},
    "a missing chunk": {"source": "gap", "missing": "skip", "nonfinite": "skip", "groups": "rows:2000"},
    "auto, after gram": {"source": "npy", "tolerance": 1e-13},
}  # fmt: skip


def _checkpoint(name: str) -> Case:
    def run(world: World) -> Any:
        options = dict(_STATES[name])
        source, kept = getattr(world, options.pop("source")), world.folder / f"checkpoint {name}.state"
        found = _measured(world, source, checkpoint=kept, **options)
        again = _measured(world, source, checkpoint=kept, **options)  # of what the file holds; no row is read
        return {"result": found, "again": again["estimates"], "state": state_file(kept)}

    return run


def _parts(name: str) -> Case:
    def run(world: World) -> Any:
        options = {key: value for key, value in _STATES[name].items() if key not in ("tolerance", "passes")}
        source, files = getattr(world, options.pop("source")), []
        for part in range(3):
            files.append(world.folder / f"{name} {part}.state")
            rs.segment(source, part=(part, 3), state=files[-1], **FIXED | options)
        rs.save_state(world.folder / f"{name} whole.state", rs.merge_states(map(rs.load_state, reversed(files))))
        whole = rs.load_state(world.folder / f"{name} whole.state")
        dims = {} if name in ("rsvd", "frequent-directions", "row-sketch") else {"dims": (2,)}
        return {
            "parts": [state_file(file) for file in files],
            "whole": state_file(world.folder / f"{name} whole.state"),
            "missing": [rs.load_state(file).missing for file in files],
            "result": rs.measure_state(whole, tolerance=1.0, confidence=0.9, **dims).to_dict(),
        }

    return run


for _name in _STATES:
    CASES[f"checkpoint: {_name}"] = _checkpoint(_name)
    if _name not in ("rsvd in two passes", "auto, after gram"):
        CASES[f"parts: {_name}"] = _parts(_name)


@case("a Gram matrix that threads share")
def _shared_gram(world: World) -> Any:
    """Of so many features threads share one Gram matrix; it is not solved, which would take long."""
    kept = world.folder / "shared.state"
    np.save(world.folder / "shared.npy", rows_of(2_500, 1_540, seed=10).astype(np.float32))
    rs.segment(world.folder / "shared.npy", part=(0, 1), state=kept, **FIXED)
    return state_file(kept)


@case("Dask with a checkpoint")
def _dask_checkpoint(world: World) -> Any:
    kept = world.folder / "dask.state"
    found = _measured(
        world, world.store, engine="dask", client=world.client, checkpoint=kept, groups="rows:60000", normalize=True
    )
    return {"result": found, "state": state_file(kept)}


@case("state files of version 1")
def _version_1(world: World) -> Any:
    return {
        path.stem: {"result": rs.measure_state(rs.load_state(path), tolerance=1.0).to_dict(), "state": state_file(path)}
        for path in sorted(DATA.glob("state-v1-*.rankme"))
    }


@case("the estimator")
def _estimator(world: World) -> Any:
    found = {}
    for method in ("gram", "tsqr"):
        first = rs.RankMe(method=method).fit(world.broad[:700])
        second = rs.RankMe(method=method).partial_fit(world.broad[700:900]).partial_fit(world.broad[900:])
        merged = first.merge(second)
        found[method] = {
            "score": first.score(world.broad[:99]),
            "interval": list(merged.interval_),
            "singular_values": merged.singular_values_.tolist(),
            "samples": merged.n_samples_seen_,
            "estimates": {
                name: {"value": one.value, "lower": one.lower, "upper": one.upper, "reason": one.reason}
                for name, one in merged.estimates_.items()
            },
        }
    return found


@case("metrics of singular values")
def _metrics(world: World) -> Any:
    values = 3.0 / (1.0 + 0.5 * np.arange(30))
    of = rs.metrics
    plain = (
        "rankme", "effective_rank", "variance_effective_rank", "participation_ratio", "stable_rank", "nesum",
        "condition_number", "alpha_req", "vendi",
    )  # fmt: skip
    found = {name: getattr(of, name)(values) for name in plain}
    found["alpha_req"] = list(found["alpha_req"])
    return found | {
        "isoscore": of.isoscore(values, n_features=40),
        "numerical_rank": of.numerical_rank(values, unit_roundoff=2.0**-7),
        "self_cluster": of.self_cluster(values / np.sqrt(np.sum(values**2)) * 10, n_rows=100, n_features=30),
        "cosine_anisotropy": of.cosine_anisotropy(17.0, n_rows=100),
        "presets": {name: preset.compute(values) for name, preset in of.PRESETS.items()},
    }


# ----------------------------------------------------------------------------------------------------------- plans

_PLANNED = {
    "embeddings": (3_000_000, 768, "float16"),
    "wide": (1_000_000, 4_096, "float32"),
    "very wide": (200_000, 50_000, "float32"),
    "narrow": (40_000, 8, "float64"),
}
_SKETCHED = ("rsvd", "frequent-directions", "row-sketch")


def _planned(world: World, name: str, **options: Any) -> Any:
    source = world.empty_store(*_PLANNED[name])
    try:
        return rs.plan(source, **{"workers": 4, "memory_limit": 2**42} | options).to_dict()
    except RankMeError as error:
        return _error(error)


def _some_plans(name: str) -> Case:
    def run(world: World) -> Any:
        found = {"auto": _planned(world, name)}
        for method in ("gram", "tsqr", *_SKETCHED):
            found[method] = _planned(world, name, method=method, normalize=True, checkpoint="a.state")
        return found | {
            "float32": _planned(world, name, method="gram", precision="float32"),
            "sample": _planned(world, name, sample=True),
            "groups": _planned(world, name, groups="rows:1000", checkpoint="a.state"),
            "passes": _planned(world, name, method="rsvd", passes=3),
            "too little memory": _planned(world, name, memory_limit=2**20),
        }

    return run


def _every_plan(name: str) -> Case:
    def run(world: World) -> Any:
        """Return of each plan the first digits of a hash: there are too many of them to be kept whole."""
        found = {}
        for method, precision, normalize, kept, workers, other in product(
            ("auto", "gram", "tsqr", *_SKETCHED), ("float64", "float32", "auto"), (False, True), (None, "a"), (1, 7),
            ({}, {"sample": True}, {"groups": "rows:5000"}, {"rank": 300, "seed": 4}, {"rows": (9_000, 30_000)}),
        ):  # fmt: skip
            if "sample" in other and (kept or method in _SKETCHED):
                continue  # refused by all entrances since they share one check
            options = {"method": method, "precision": precision, "normalize": normalize, "checkpoint": kept}
            plan = canonical(_planned(world, name, workers=workers, **options | other), world.folder)
            key = f"{method} {precision} {normalize:d}{kept is not None:d} {workers} {' '.join(other)}".strip()
            found[key] = _sha(json.dumps(skeleton(plan), sort_keys=True).encode())[:8]
        groups: dict[str, list[str]] = {}
        for key, digits in found.items():
            groups.setdefault(" ".join(key.split()[:2]), []).append(digits)
        return {key: _sha("".join(digits).encode())[:12] for key, digits in groups.items()}

    return run


for _name in _PLANNED:
    CASES[f"plans: {_name}"] = _some_plans(_name)
for _name in ("embeddings", "narrow"):
    CASES[f"many plans: {_name}"] = _every_plan(_name)


# ---------------------------------------------------------------------------------------------- refusals, commands


@case("refusals")
def _refusals(world: World) -> Any:
    rows, path = world.broad, world.npy
    asked: dict[str, tuple[Any, dict[str, Any]]] = {
        "tsqr float32": (rows, {"method": "tsqr", "precision": "float32"}),
        "rsvd float32": (rows, {"method": "rsvd", "precision": "float32"}),
        "sketch and dims": (rows, {"method": "rsvd", "dims": (3,)}),
        "sketch and sample": (rows, {"method": "row-sketch", "sample": True}),
        "rank without a sketch": (rows, {"rank": 3}),
        "rank too large": (rows, {"method": "frequent-directions", "rank": 30}),
        "row sketch too small": (rows, {"method": "row-sketch", "rank": 10}),
        "too few rows": (rows, {"method": "row-sketch", "rank": 4000}),
        "passes": (rows, {"method": "gram", "passes": 2}),
        "max_rows": (rows, {"max_rows": 5}),
        "tolerance": (rows, {"tolerance": 0.0, "sample": True}),
        "confidence": (rows, {"confidence": 1.0}),
        "rows": (rows, {"rows": (5, 5)}),
        "dims": (rows, {"dims": (41,)}),
        "workers": (rows, {"workers": 0}),
        "seed": (rows, {"seed": -1}),
        "groups and sample": (rows, {"groups": "rows:5", "sample": True}),
        "labels of another length": (rows, {"groups": np.arange(3)}),
        "group spec": (rows, {"groups": "rows:none"}),
        "sample and checkpoint": (path, {"sample": True, "checkpoint": "a"}),
        "device": (rows, {"device": "abacus"}),
        "blocks and rows": (iter([rows]), {"rows": (0, 3)}),
        "not finite": (world.holes, {}),
        "not there": (world.folder / "absent.npy", {}),
        "missing chunks": (world.gap, {}),
        "no numbers": (np.array([["a"]]), {}),
        "one dimension": (np.arange(3.0), {}),
        "zeros": (np.zeros((3, 2)), {"nonfinite": "sometimes"}),
        "memory": (path, {"memory_limit": 2**20}),
    }
    found = {}
    for name, (source, options) in asked.items():
        try:
            rs.measure(source, **{"workers": 1, "memory_limit": LIMIT} | options)
        except RankMeError as error:
            found[name] = _error(error)
        else:
            found[name] = "is not refused"
    return found


def _error(error: RankMeError) -> dict[str, Any]:
    text = re.sub(r"\d[\d.,]* [KMG]iB|\d+MiB", "# MiB", str(error))  # what the process holds already is in the sums
    return {"error": type(error).__name__, "exit_code": error.exit_code, "text": text}


def _command(world: World, *arguments: str) -> dict[str, Any]:
    """Run ``python -m rankme_stream`` in the folder, so that what it prints holds no path of this machine."""
    done = subprocess.run(
        [sys.executable, "-m", "rankme_stream", *arguments], cwd=world.folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}, check=False,
    )  # fmt: skip
    return {"code": done.returncode, "out": _timeless(done.stdout), "err": _timeless(done.stderr)}


def _timeless(text: str) -> list[str]:
    text = re.sub(r"[\d.,]+ s, [\d,]+ MiB at most", "# s, # MiB at most", text)
    return text.splitlines()


def _json(world: World, name: str) -> list[Any]:
    text = (world.folder / name).read_text(encoding="utf-8")
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


@case("command: score")
def _score(world: World) -> Any:
    told = _command(
        world, "score", world.npy.name, "absent.zarr", world.gap.name, "--missing", "skip", "--workers", "2",
        "--memory", "16GiB", "--normalize", "--dims", "3,6", "--tolerance", "1e-15", "--json", "score.json",
    )  # fmt: skip
    return told | {"json": _json(world, "score.json")}


@case("command: plan")
def _plan(world: World) -> Any:
    told = _command(
        world, "plan", world.npy.name, "--workers", "2", "--memory", "16GiB", "--tasks-for", "8", "--json", "plan.json"
    )
    return told | {"json": _json(world, "plan.json")}


@case("command: segment, merge, show")
def _merge(world: World) -> Any:
    told = [
        _command(
            world, "segment", world.store.name, "--part", f"{part}/2", "--state", f"cli-{part}.state",
            "--workers", "2", "--memory", "16GiB", "--group-by", "rows:70000",
        )
        for part in range(2)
    ]  # fmt: skip
    told.append(_command(world, "merge", "cli-0.state", "cli-1.state", "--state", "cli.state", "--json", "merge.json"))
    told.append(_command(world, "show", "cli-1.state"))
    return {"told": told, "json": _json(world, "merge.json"), "state": state_file(world.folder / "cli.state")}


@case("command: compare")
def _compare(world: World) -> Any:
    """Rank eight dumps, one as a JSON result and one as a state file, against scores of two sweeps."""
    lines, names = ["source,score,sweep,hyperparameter"], []
    for number in range(8):
        name = f"run-{number}.npy"
        np.save(world.folder / name, rows_of(400, 12, seed=20 + number, decay=0.1 + 0.15 * (number * 3 % 8)))
        lines.append(f"{name},{60 + (number * 5 % 8)}.5,{'ab'[number % 2]},{number}")
        names.append(name)
    (world.folder / "scores.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    document = rs.measure(world.folder / "run-6.npy", normalize=True, **FIXED).to_dict()
    document["source"]["uri"] = "run-6.npy"
    (world.folder / "run-6.json").write_text(json.dumps(document), encoding="utf-8")
    rs.segment(world.folder / "run-7.npy", part=(0, 1), state=world.folder / "run-7.state", normalize=True, **FIXED)
    names[6:] = ["run-6.json", "run-7.state"]
    told = _command(
        world, "compare", *names, "--scores", "scores.csv", "--select", "highest", "--normalize", "--workers", "2",
        "--memory", "16GiB", "--json", "compare.json",
    )  # fmt: skip
    return told | {"json": _json(world, "compare.json")}


# -------------------------------------------------------------------------------------------------- canonical form


def state_file(path: Path) -> dict[str, Any]:
    """Return what a state file holds, read here and not by the package, so that the format is frozen as well."""
    whole = path.read_bytes()
    magic, (version,) = whole[:13], struct.unpack("<I", whole[13:17])
    assert magic == b"rankme-state\n" and version in (1, 2)
    assert hashlib.blake2b(whole[:-32], digest_size=32).digest() == whole[-32:]
    start, length = struct.unpack("<QQ", whole[-48:-32])
    assert start + length == len(whole) - 48
    held = json.loads(whole[start : start + length])
    for record in held["records"]:
        for name, place in record["arrays"].items():
            assert set(place) == {"dtype", "shape", "start"} and place["start"] % 8 == 0
            count = math.prod(place["shape"])
            array = np.frombuffer(whole, np.dtype(place["dtype"]), count, place["start"])
            record["arrays"][name] = _array(array, place["shape"])
    held["records"].sort(key=lambda record: record.get("node", []))  # threads end in any order
    return held


def _array(array: np.ndarray, shape: list[int]) -> dict[str, Any]:
    told: dict[str, Any] = {"array": array.dtype.str, "shape": shape, "bits": _sha(array.tobytes())}
    if array.dtype.kind == "f" and array.size:
        with np.errstate(over="ignore"):
            told["norm"] = float(np.sqrt(np.sum(np.square(array.astype(np.float64)))))
    return told


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def canonical(document: Any, folder: Path) -> Any:
    """Return a document without what varies from run to run or machine to machine.

    Fingerprints hold times of files; ``process`` is what the process held before the pass, and the predicted peak
    holds it. Keys stay, so that none is lost without notice.
    """
    return _without(json.loads(json.dumps(document, default=_number)), folder, ())


# Prose: its English may be mended, so only whether there is any is kept. Of what a command prints, its numbers are.
_PROSE = {"reason", "grounds", "text", "mixed", "remarks", "notes", "message", "err"}
_NUMERAL = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.]*\w)")


def _number(value: Any) -> Any:
    return value.item()


def _without(part: Any, folder: Path, path: tuple[str, ...]) -> Any:
    if isinstance(part, dict):
        part = dict(part)
        if isinstance(part.get("memory"), dict) and "predicted_peak_bytes" in part:
            part["memory"] = dict(part["memory"])
            part["predicted_peak_bytes"] -= part["memory"].get("process", 0)
            part["memory"]["process"] = "varies"
        for key in part:
            if key in ("fingerprint", "anchor", "elapsed_s", "cpu_s", "peak_bytes", "rankme_stream"):
                part[key] = "varies" if part[key] else part[key]
            elif key in _PROSE:
                part[key] = "prose" if part[key] else part[key]
            elif key == "out":
                part[key] = " ".join(_NUMERAL.findall(" ".join(part[key])))
            elif key == "stretches":
                part[key] = [[start, stop, "varies" if mark else mark] for start, stop, mark in part[key]]
            elif key == "workers" and isinstance(part[key], list):  # machines
                part[key] = [sorted(one) for one in part[key][:1]]
        return {key: _without(value, folder, (*path, key)) for key, value in part.items()}
    if isinstance(part, list):
        return [_without(value, folder, path) for value in part]
    return part.replace(str(folder), "FOLDER") if isinstance(part, str) else part


_FLOAT = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+(?:[eE][-+]?\d+)?|[eE][-+]?\d+)(?![\w.]*\w)")
_HASH = re.compile(r"[0-9a-f]{16,}")


def skeleton(part: Any, key: str = "") -> Any:
    """Return keys, strings, integers and booleans; a word in place of what another processor may round otherwise."""
    if isinstance(part, dict):
        if part.get("array", "  ")[1] == "f":
            return {name: value for name, value in part.items() if name not in ("bits", "norm")}
        if isinstance(part.get("value"), int) and part.get("lower") != part.get("upper"):
            part = part | {"value": "an integer that its interval leaves open"}
        return {name: skeleton(value, name) for name, value in part.items()}
    if isinstance(part, list):
        if len(part) > 2 and all(isinstance(value, float) for value in part):
            return f"{len(part)} floats"
        return [skeleton(value, key) for value in part]
    if isinstance(part, float):
        return "float"
    if isinstance(part, str):
        if key == "basis" and _HASH.fullmatch(part):
            return "hash"  # of floats
        if key == "out" or _FLOAT.search(part):
            return " ".join(_FLOAT.sub("~", part).split())
    return part


_ERRORS = re.compile(r"/\w*(error|excess|residual|rounding|spread|worst_case)\w*$")
Figure = tuple[float, float]  # a number, and how far another processor may be from it


def figures(part: Any, path: str = "", is_coarse: bool = False) -> Iterator[tuple[str, Figure]]:
    """Yield the numbers of a canonical document that are compared everywhere, each with its interval's half-width.

    Of groups, RankMe alone; of presets, none, for they are of the same singular values as the others; of singular
    values, the first, the middle one and the last; of arrays, the norm, but not where an array holds errors. Of parts
    of a pass, none, for the whole is there. ``is_coarse`` where the arrays were made in float32.
    """
    if isinstance(part, list):
        for number, value in enumerate(part):
            yield from figures(value, f"{path}/{number}", is_coarse)
    if not isinstance(part, dict):
        return
    if isinstance(part.get("value"), int | float) and all(
        isinstance(part.get(end), float) for end in ("lower", "upper")
    ):
        width = (part["upper"] - part["lower"]) / 2
        if list(part.get("covers", ["arithmetic"])) != ["arithmetic"]:  # what covers more says little of rounding
            width = min(width, 1e-5 * abs(part["value"]))
        yield path, (part["value"], width)
        return
    if "array" in part and "norm" in part:
        if not _ERRORS.search(path):
            yield path, (part["norm"], (1e-4 if is_coarse else 1e-8) * part["norm"])
        return
    is_coarse = is_coarse or part.get("plain", {}).get("plan", {}).get("precision") == "float32"
    for side in ("", "centered_"):
        values = part.get(f"{side}singular_values")
        if values and f"{side}lower" in part:
            for place in sorted({0, len(values) // 2, len(values) - 1}):
                width = (part[f"{side}upper"][place] - part[f"{side}lower"][place]) / 2
                yield f"{path}/{side}{place}", (values[place], min(width, 1e-3 * values[0]) + 1e-9 * values[0])
    for name, value in part.items():
        if name in ("presets", "parts"):
            continue
        if name == "groups" and isinstance(value, dict):
            value = {
                group: {"rankme": one["rankme"]}
                for group, one in value.items()
                if isinstance(one, dict) and "rankme" in one
            } or value
        yield from figures(value, f"{path}/{name}", is_coarse)


_SHARED_FROM = 60  # characters


def folded(part: Any, shared: dict[str, Any]) -> Any:
    """Return a skeleton whose longer parts are in ``shared``, each once and under its hash: most cases share most.

    An object becomes a list of where its keys are in ``shared``, and its values.
    """
    if isinstance(part, dict) and part:
        return _shared(
            [_shared([*part], shared, "#"), *(folded(value, shared) for value in part.values())], shared, "@"
        )
    if isinstance(part, list):
        return _shared([folded(value, shared) for value in part], shared, "@")
    return part


def _shared(part: list[Any], shared: dict[str, Any], mark: str) -> Any:
    text = json.dumps(part)
    if mark == "@" and len(text) < _SHARED_FROM:
        return part
    name = mark + _sha(text.encode())[:8]  # of six digits, two of some thousand would be the same
    assert shared.setdefault(name, part) == part
    return name


def unfolded(part: Any, shared: dict[str, Any]) -> Any:
    """Return the skeleton that ``folded`` was given."""
    if isinstance(part, str) and part.startswith("@"):
        part = shared[part]
    if isinstance(part, list) and part and isinstance(part[0], str) and part[0].startswith("#"):
        return {key: unfolded(value, shared) for key, value in zip(shared[part[0]], part[1:], strict=True)}
    return [unfolded(value, shared) for value in part] if isinstance(part, list) else part


# --------------------------------------------------------------------------------------------------------- results


def computed(name: str, world: World) -> dict[str, Any]:
    """Run a case and return what is kept of it: skeleton, figures and a hash of all bits."""
    with warnings.catch_warnings(record=True) as caught:
        for kind in (ToleranceWarning, CheckpointWarning):
            warnings.filterwarnings("always", category=kind)
        result = CASES[name](world)
    warned = [one.category.__name__ for one in caught if issubclass(one.category, UserWarning)]
    document = canonical({"result": result, "warnings": warned}, world.folder)
    return {
        "skeleton": skeleton(document),
        "figures": dict(figures(document)),
        "bits": {
            key: _sha(json.dumps(part, sort_keys=True).encode())[:10]
            for key, part in _sections(document["result"]).items()
            if skeleton(part, key) != part  # otherwise the skeleton says all of it
        },
    }


def _sections(result: Any) -> dict[str, Any]:
    """Return the parts of a result that are hashed apart, so that a difference tells where it is."""
    return result if isinstance(result, dict) else {"all": result}


def signature() -> dict[str, str]:
    """Return what the bits of a result depend on besides the code: the same bits are asked for where it is the same."""
    blas = {
        f"{one['internal_api']} {one['version']} {one.get('architecture', '')}"
        for one in threadpool_info()
        if one["user_api"] == "blas"
    }
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return {
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": ", ".join(sorted(blas)),
        "simd": " ".join([*simd.get("baseline", []), *simd.get("found", [])]),
        "libc": " ".join(platform.libc_ver()),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": ".".join(platform.python_version_tuple()[:2]),  # of 3.12 sum() rounds otherwise
        "zarr": zarr.__version__,  # its codecs are named in state files
    }
