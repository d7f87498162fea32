"""How near do passes on a CUDA card come to its limits, do their intervals hold, and what does the host do alone?

``python -m benchmarks gpu`` compares our passes, by CuPy and by torch, with the rates at which the card copies and
multiplies in the same run, and with an older build; it also times the host alone on 1 to 16 cores, and what Python
takes to queue work. It needs one of the two libraries and what the package needs; what is missing is named.

Each part has a time limit, and so have all together (``--seconds``): parts that fail or no longer fit are listed.
``--quick`` lets torch on the processor stand in for a card: a test that the benchmark runs, and nothing else.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.harness.experiment import Experiment, Size
from benchmarks.harness.part_server import PartError, PartServer, Setup
from benchmarks.speed import card_parts, gpu_page, host_parts, queueing
from rankme_stream.numerics import machine

_SECONDS = 460.0
_LIMIT, _LEAST_LIMIT_S = 4.0, 30.0  # a part may take so many times its estimate, or so long
_PACKAGES = ("cupy", "torch", "zarr", "numcodecs", "array_api_compat", "ml_dtypes")
_HOST_CORES = (16, 1, 4, 8, 2)  # most important first
_HOST_PARTS = (
    ("ours", "array", "float64"), ("ours", "zarr", "float64"), ("decoding",), ("numpy", "float64"),
    ("ours", "array", "float32"), ("ours", "zarr", "float32"), ("numpy", "float32"), ("torch", "float64"),
    ("torch", "float32"),
)  # fmt: skip
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Plan:
    """Sizes: features, most important first; bytes of rows on a card, and for each core of the host; seconds."""

    features: tuple[int, ...]
    card_bytes: int
    host_bytes: int
    seconds: float  # of one timing of a copy or a product


PLANS: dict[Size, Plan] = {
    "quick": Plan((64,), 2**20, 2**18, 0.001),
    "default": Plan((768, 4096, 2048, 1024, 256), 2**32, 2**25, 0.05),
}


@dataclass(frozen=True)
class Part:
    """One measurement: its setup, its name and arguments, its estimated seconds, and what its lines share."""

    setup: Setup
    words: tuple[str, ...]
    seconds: float
    shared: dict[str, Any]

    @property
    def name(self) -> str:
        """What it shares with other parts, and its words."""
        shared = (f"{value:,}" if isinstance(value, int) else value for value in self.shared.values())
        return ", ".join([*shared, " ".join(self.words)])


@dataclass(frozen=True)
class Parts:
    """Every part of a run: which device, in which folder of temporary files, beside which older build."""

    plan: Plan
    device: str
    folder: Path
    old: Path | None

    def all(self, libraries: Sequence[str]) -> list[Part]:
        """Return the parts, most important first."""
        parts: list[Part] = []
        for number, library in enumerate(libraries):
            parts += self._passes(library, self.plan.features[0])
            if number == 0 and self.old is not None:
                parts += self._old_pass(library, self.old)
            parts += self._first_passes(library)
            for n_features in self.plan.features[1:]:
                parts += self._passes(library, n_features)
            if number == 0:
                parts += self.of_the_host()
        for library in libraries:
            parts += self._other_passes(library)
        return parts or [*self.of_the_host()]

    def _setup(self, library: str, **changes: Any) -> Setup:
        rows = {
            "library": library, "device": self.device, "stored": "float16", "features": self.plan.features[0],
            "bytes": self.plan.card_bytes, "seconds": self.plan.seconds,
        }  # fmt: skip
        return Setup(card_parts.__name__, rows | changes, {"TMPDIR": str(self.folder)})

    def describing(self, library: str) -> Part:
        """Return the part that says which card a library finds."""
        return Part(self._setup(library), ("describe",), 10.0, {"library": library, "device": self.device})

    def _passes(self, library: str, n_features: int) -> Iterator[Part]:
        """Yield the limits of the card and our passes, for rows of one width."""
        setup, shared = self._setup(library, features=n_features), _shared(library, n_features)
        for words, seconds in (
            (("copies",), 5.0),  # with the start of the process
            (("products",), 3.0), (("pass", "card", "float64"), 1.5), (("pass", "pinned", "float64"), 4.5),
            (("pass", "card", "float32"), 1.0), (("pass", "pageable", "float64"), 3.0),
            (("pass", "zarr", "float64"), 4.0), (("pass", "pinned", "float32"), 1.0), (("operations",), 1.0),
            (("eigenvalues",), 1.0),
        ):  # fmt: skip
            yield Part(setup, words, seconds, shared)

    def _old_pass(self, library: str, old: Path) -> Iterator[Part]:
        """Yield a pass by an older build, with one worker, with which it was fastest on a card."""
        shared = _shared(library, self.plan.features[0]) | {"build": old.name}
        yield Part(self._setup(library, build=str(old.resolve()), workers=1), ("pass", "card", "float64"), 35.0, shared)

    def _first_passes(self, library: str) -> Iterator[Part]:
        """Yield the first passes of a process that finds no compiled kernels."""
        setup = self._setup(library, bytes=min(self.plan.card_bytes, 2**29))
        caches = {name: str(self.folder / f"{library}-{name}") for name in ("CUPY_CACHE_DIR", "CUDA_CACHE_PATH")}
        empty = Setup(setup.module, setup.arguments, {**setup.environment, **caches})
        yield Part(empty, ("first",), 15.0, _shared(library, self.plan.features[0]))

    def _other_passes(self, library: str) -> Iterator[Part]:
        """Yield passes by other methods, and over rows of other types."""
        n_features, n_bytes = self.plan.features[0], min(self.plan.card_bytes, 2**28)
        setup = self._setup(library, bytes=n_bytes)
        for name in card_parts.OTHERS:
            yield Part(setup, ("other", name), 1.5, _shared(library, n_features))
        for stored, where in (("bfloat16", "pinned" if library == "cupy" else "card"), ("float32", "card")):
            setup, shared = self._setup(library, stored=stored), _shared(library, n_features, stored)
            yield Part(setup, ("products",), 6.0, shared)
            yield Part(setup, ("pass", where, "float32"), 3.0, shared)

    def of_the_host(self) -> Iterator[Part]:
        """Yield the rates of the host alone on every number of cores that it has, and of the queueing of segments."""
        n_features, n_bytes, folder = self.plan.features[0], self.plan.host_bytes, {"TMPDIR": str(self.folder)}
        for cores in _HOST_CORES:
            if cores <= machine.cores():
                rows = {"cores": cores, "features": n_features, "bytes": n_bytes}
                setup = Setup(host_parts.__name__, rows, folder | dict.fromkeys(_THREADS, str(cores)), cores)
                shared = {"cores": cores, "features": n_features, "stored": "float16"}
                yield from (Part(setup, words, 1.4, shared) for words in _HOST_PARTS)
        for n_features in self.plan.features:
            setup = Setup(queueing.__name__, {"features": n_features, "bytes": self.plan.card_bytes}, folder)
            for precision in ("float64", "float32"):
                yield Part(setup, ("queue", precision), 1.0, {"features": n_features, "stored": "float16"})


def _shared(library: str, n_features: int, stored: str = "float16") -> dict[str, Any]:
    return {"library": library, "features": n_features, "stored": stored}


@dataclass
class Run:
    """The parts of a run against its deadline: lines of measurements, and the parts left out, with the reason."""

    experiment: Experiment
    deadline: float
    lines: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)

    def make(self, parts: Sequence[Part]) -> None:
        """Make the parts one after another; consecutive parts of one setup share a process."""
        server = PartServer(parts[0].setup)
        try:
            for part in parts:
                if part.setup != server.setup:
                    server.close()
                    server = PartServer(part.setup)
                left = self.deadline - time.monotonic()
                if part.seconds > left:
                    self._leave_out(part.name, "no time was left")
                    continue
                limit_s = min(left, max(_LEAST_LIMIT_S, _LIMIT * part.seconds))
                made = self.experiment.part(part.name, _answer, server, part, limit_s)
                if "failed" in made:
                    self._leave_out(part.name, made["failed"])
                self.lines += [part.shared | line for line in made.get("lines", ())]
        finally:
            server.close()

    def _leave_out(self, name: str, why: str) -> None:
        print(f"{name}: not measured: {why}", flush=True)
        self.left_out.append({"part": name, "why": why})

    def described(self, part: Part) -> dict[str, str]:
        """Return what a library says of its card; nothing if it finds none, which is noted."""
        server = PartServer(part.setup)
        try:
            made = self.experiment.part(part.name, _answer, server, part, 60.0)
        finally:
            server.close()
        if "failed" in made:
            self._leave_out(f"everything by {' on '.join(part.shared.values())}", made["failed"])
        found: dict[str, str] = made.get("lines", {})
        return found


def _answer(server: PartServer, part: Part, limit_s: float) -> dict[str, Any]:
    try:
        return {"lines": server.ask(part.words, limit_s)}
    except PartError as error:
        return {"failed": str(error)}


def measured(run: Run, plan: Plan, old: Path | None, folder: Path) -> dict[str, Any]:
    """Make every part for the libraries that find a card, and return the result."""
    parts = Parts(plan, "cuda", folder, old)
    cards = {library: run.described(parts.describing(library)) for library in ("cupy", "torch")}
    facts = {library: found for library, found in cards.items() if found}
    is_card = bool(facts)
    if not is_card and run.experiment.size == "quick":
        parts = Parts(plan, "cpu", folder, old)
        stand_in = run.described(parts.describing("torch"))
        facts = {"torch": stand_in} if stand_in else {}
    every = parts.all([*facts])
    print(f"{len(every)} parts, about {sum(part.seconds for part in every):.0f} s if none fails", flush=True)
    run.make(every)
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    return {
        "is_card": is_card, "facts": facts, "missing": missing, "cores": machine.cores(), "lines": run.lines,
        "left_out": run.left_out,
    }  # fmt: skip


def main() -> int:
    """Run, print and write the page; return 1 if an interval does not hold."""
    experiment = Experiment(
        "gpu", __doc__, {"quick": "10 s, 30 s with torch", "default": f"{_SECONDS / 60:.0f} minutes at most"}
    )
    experiment.parser.add_argument(
        "--seconds", type=float, default=_SECONDS, help=f"time for everything, {_SECONDS:.0f} by default"
    )
    experiment.parser.add_argument(
        "--old", type=Path, help="folder that holds rankme_stream of an older commit, to compare passes with"
    )
    arguments = experiment.start()
    run = Run(experiment, time.monotonic() + arguments.seconds)
    with tempfile.TemporaryDirectory() as folder:
        result = measured(run, PLANS[experiment.size], arguments.old, Path(folder))
    whole = experiment.finish(result, gpu_page.markdown)
    return int(not all(line["held"] for line in whole["lines"] if "held" in line and "build" not in line))
