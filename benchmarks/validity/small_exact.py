"""Does any interval of any method miss the truth of small matrices, from 2^-1074 to 2^480 and in every stored type?

``python -m benchmarks small_exact`` draws matrices of integers times powers of two, whose every metric is known to 60
digits (``ball_arithmetic``), adds them up in random panels and merges by every accumulator, and scores them through
``measure`` with random options: normalize, dims, groups, passes. A run that is killed goes on with its next part when
``--out`` names the same folder.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
from flint import arb
from scipy.stats import binom
from threadpoolctl import threadpool_limits

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment, Size, table
from benchmarks.validity import ball_arithmetic, exact_groups
from rankme_stream.accumulators.error_probes import CONFIDENCE
from rankme_stream.accumulators.float32_gram import Float32GramAccumulator
from rankme_stream.accumulators.frequent_directions import FrequentDirectionsAccumulator
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.nystrom.accumulator import NystromAccumulator
from rankme_stream.accumulators.row_sketch.accumulator import RowSketchAccumulator
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.errors import MagnitudeError
from rankme_stream.spectra import estimates
from rankme_stream.spectra.spectrum import ConsistentSet, Spectrum
from rankme_stream.testing import with_ones

_FIRST_SEED = 730_000
_BLOCK = 250  # seeds of one part
_CHANCE = 1e-3  # of a false alarm for intervals that hold with a confidence
_LARGEST = 480  # power of two beyond which values are refused
_SPREAD = 640  # between the powers of two of one matrix; with more, enclosing the truth takes minutes
_EVERY = 10  # of so many matrices one is scaled beyond it as well
# Name and dtype of a stored type, digits of its integers, and the least and largest power of two of its entries.
_STORED: Mapping[str, tuple[Any, int, tuple[int, int]]] = {
    "float64": (np.float64, 20, (-1074, 460)),
    "float32": (np.float32, 20, (-149, 100)),
    "float16": (np.float16, 10, (-24, 5)),
    "bfloat16": (ml_dtypes.bfloat16, 7, (-133, 110)),
    "int8": (np.int8, 6, (0, 0)),
    "uint16": (np.uint16, 15, (0, 0)),
    "int64": (np.int64, 30, (0, 20)),
}
_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}


@dataclass(frozen=True)
class Case:
    """A matrix as stored, the same in float64, the labels of its rows, and how it was drawn."""

    stored: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    facts: dict[str, Any]

    @property
    def unit_roundoff(self) -> float:
        """Unit roundoff of the stored type."""
        return _ROUNDOFF.get(self.facts["stored"], 2.0**-53)


def _integers(generator: np.random.Generator, shape: tuple[int, int], digits: int) -> np.ndarray:
    return generator.integers(-(2**digits) + 1, 2**digits, shape)


def _low_rank(generator: np.random.Generator, shape: tuple[int, int], digits: int) -> np.ndarray:
    rank, most = int(generator.integers(1, 4)), 2 ** (digits // 2 - 1)
    left, right = generator.integers(-most, most + 1, (shape[0], rank)), generator.integers(-1, 2, (rank, shape[1]))
    return left @ right


def _constant(generator: np.random.Generator, shape: tuple[int, int], digits: int) -> np.ndarray:
    return np.repeat(_integers(generator, (1, shape[1]), digits), shape[0], axis=0)


def _nearly_constant(generator: np.random.Generator, shape: tuple[int, int], digits: int) -> np.ndarray:
    return np.clip(_constant(generator, shape, digits) + generator.integers(-1, 2, shape), 1 - 2**digits, 2**digits - 1)


def _duplicates(generator: np.random.Generator, shape: tuple[int, int], digits: int) -> np.ndarray:
    return _integers(generator, (3, shape[1]), digits)[generator.integers(0, 3, shape[0])]


def _zero_features(generator: np.random.Generator, shape: tuple[int, int], digits: int) -> np.ndarray:
    return _integers(generator, shape, digits) * (generator.random(shape[1]) < 0.5)


def _zero_rows(generator: np.random.Generator, shape: tuple[int, int], digits: int) -> np.ndarray:
    return _integers(generator, shape, digits) * (generator.random((shape[0], 1)) < 0.5)


def _giant_row(generator: np.random.Generator, shape: tuple[int, int], digits: int) -> np.ndarray:
    rows = _integers(generator, shape, 2)
    rows[generator.integers(shape[0])] *= 2 ** (digits - 2)
    return rows


def _signs(generator: np.random.Generator, shape: tuple[int, int], digits: int) -> np.ndarray:
    return 2 * generator.integers(0, 2, shape) - 1


def _one_value(generator: np.random.Generator, shape: tuple[int, int], digits: int) -> np.ndarray:
    rows = np.zeros(shape, np.int64)
    rows[generator.integers(shape[0]), generator.integers(shape[1])] = 1
    return rows


FAMILIES: Mapping[str, Callable[[np.random.Generator, tuple[int, int], int], np.ndarray]] = {
    "integers": _integers, "low rank": _low_rank, "constant rows": _constant, "constant but for one": _nearly_constant,
    "duplicates": _duplicates, "zero features": _zero_features, "zero rows": _zero_rows, "one giant row": _giant_row,
    "signs": _signs, "one value": _one_value,
}  # fmt: skip


def draw(seed: int) -> Case:
    """Return a matrix of 1 to 12 features and up to 80 rows; a third has no more rows than features.

    A quarter of the float64 matrices mixes scales: of blocks of rows, or of features.
    """
    generator = np.random.default_rng(seed)
    n_features = int(generator.integers(1, 9 if generator.random() < 0.9 else 17))
    most = n_features + 1 if generator.random() < 0.3 else 80
    shape = int(generator.integers(1, most + 1)), n_features
    family = str(generator.choice(list(FAMILIES)))
    name = "float64" if generator.random() < 0.5 else str(generator.choice(list(_STORED)))
    dtype, digits, (least, largest) = _STORED[name]
    whole = FAMILIES[family](generator, shape, digits)
    power = int(generator.integers(least, largest + 1))
    powers = np.full(shape, power)
    if name == "float64" and generator.random() < 0.25:
        axis = int(generator.integers(2))
        other = power + int(generator.integers(-_SPREAD, _SPREAD + 1))
        others = generator.choice([power, min(max(other, least), largest)], shape[axis])
        powers = np.broadcast_to(np.sort(others)[:, None] if axis == 0 else others[None, :], shape)
    if name.startswith("uint"):
        whole = np.abs(whole)
    rows = np.ldexp(whole.astype(np.float64), powers)
    facts = {"seed": seed, "family": family, "stored": name, "power": power, "shape": list(shape),
             "mixed": bool(np.ptp(powers))}  # fmt: skip
    return Case(rows.astype(dtype), rows, generator.integers(0, 3, shape[0]), facts)


def accumulated(case: Case, make: Callable[[int], Any]) -> Spectrum:
    """Return the spectrum from random panels and merges."""
    generator = np.random.default_rng([case.facts["seed"], 1])
    n_rows, n_features = case.rows.shape
    cuts = sorted({0, n_rows, *generator.integers(0, n_rows + 1, int(generator.integers(0, 5))).tolist()})
    parts: list[Any] = []
    for start, stop in pairwise(cuts):
        if not parts or generator.random() < 0.5:
            parts.append(make(n_features))
        parts[-1].update(with_ones(case.rows[start:stop]), start)
    while len(parts) > 1:
        last = parts.pop()
        parts[-1] = parts[-1].merge(last)
    spectrum: Spectrum = parts[0].spectrum(unit_roundoff=case.unit_roundoff)
    return spectrum


def _makers(case: Case) -> Iterator[tuple[str, Callable[[int], Any]]]:
    """Yield each method that takes the matrix, and the function that makes its accumulator."""
    yield "gram", GramAccumulator
    yield "tsqr", TsqrAccumulator
    yield "gram float32", partial(Float32GramAccumulator, seed=case.facts["seed"])
    yield "row-sketch", partial(RowSketchAccumulator, sketch_size=32, seed=case.facts["seed"])
    if (n_features := case.rows.shape[1]) > 1:
        size = 1 + case.facts["seed"] % (n_features // 2)
        yield "rsvd", partial(NystromAccumulator, sketch_size=size, seed=case.facts["seed"])
        yield "frequent-directions", partial(FrequentDirectionsAccumulator, sketch_size=size)


def _options(case: Case) -> dict[str, Any]:
    """Return random options of ``measure``."""
    generator = np.random.default_rng([case.facts["seed"], 2])
    n_features = case.rows.shape[1]
    methods = ["auto", "gram", "tsqr"] + (["rsvd", "frequent-directions"] if n_features > 1 else [])
    method = str(generator.choice(methods))
    options: dict[str, Any] = {"method": method, "normalize": bool(generator.random() < 0.5)}
    if method in ("rsvd", "frequent-directions"):
        options["rank"] = int(generator.integers(1, n_features // 2 + 1))
        options |= {"oversampling": 0, "passes": int(generator.integers(1, 4))} if method == "rsvd" else {}
    else:
        options["dims"] = tuple(generator.integers(1, n_features + 1, int(generator.integers(0, 2))).tolist())
        options["groups"] = case.labels if n_features <= 5 and generator.random() < 0.5 else None
    return options


class _Tally:
    """Counts by method, misses, and errors, of one part."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.misses: list[dict[str, Any]] = []

    def estimate(self, case: Case, method: str, name: str, number: Any, one: rs.Estimate) -> None:
        """Check one estimate of a metric."""
        if number is None:
            self._add(case, method, name, "undefined" if one.value is None else "missed", number, one)
        elif one.lower is None or one.upper is None:
            is_false = one.reason == "all singular values are zero"  # it is defined, so they are not
            self._add(case, method, name, "missed" if is_false else "withheld", number, one)
        else:
            for lower, upper in ((one.lower, one.upper), one.details.get("worst_case", (one.lower, one.upper))):
                self._add(case, method, name, _outcome(number, lower, upper), number, one)

    def values(self, case: Case, method: str, name: str, truth: list[arb], ends: ConsistentSet) -> None:
        """Check the consistent set of singular values."""
        for k, (number, lower, upper) in enumerate(zip(truth, ends.lower, ends.upper, strict=True)):
            self._add(case, method, f"{name} {k}", _outcome(number, lower, upper), number, (lower, upper))
        energy = ends.in_their_unit().energy
        if energy is not None:
            with ball_arithmetic.precision():
                total = sum((number * number for number in truth), arb(0))
            self._add(case, method, f"{name} energy", _outcome(total, *energy), total, energy)

    def error(self, case: Case, method: str, error: Exception | None, names: str) -> None:
        """Count a refusal, which is right where it ``names`` the limit that the values are beyond."""
        is_right = isinstance(error, MagnitudeError) and names in str(error)
        self._add(case, method, "all", "refused" if is_right else "missed", f"refusal: {names}", repr(error))

    def _add(self, case: Case, method: str, name: str, outcome: str, number: Any, found: Any) -> None:
        self.counts.setdefault(method, Counter())[outcome] += 1
        if outcome in ("missed", "undecided"):
            text = {"method": method, "name": name, "outcome": outcome, "truth": str(number), "found": str(found)}
            self.misses.append(case.facts | text)


def _outcome(number: Any, lower: float, upper: float) -> str:
    try:
        return "held" if ball_arithmetic.contains(number, lower, upper) else "missed"
    except ArithmeticError:
        return "undecided"


def check(seeds: Iterable[int]) -> dict[str, Any]:
    """Check every interval of the matrices of some seeds."""
    tally = _Tally()
    for seed in seeds:
        case = draw(seed)
        truth = ball_arithmetic.truth(case.rows, unit_roundoff=case.unit_roundoff)
        for method, make in _makers(case):
            tally.counts.setdefault(method, Counter())["matrices"] += 1
            try:
                spectrum = accumulated(case, make)
            except rs.RankMeError as error:
                tally.error(case, method, error, "overflow float32" if "float32" in method else "nothing")
                continue
            _check_spectrum(tally, case, method, truth, spectrum)
        _check_measured(tally, case, truth)
        if seed % _EVERY == 0 and case.rows.any():
            _check_refusal(tally, case)
    return {"counts": tally.counts, "misses": tally.misses}


def _check_spectrum(tally: _Tally, case: Case, method: str, truth: ball_arithmetic.Truth, spectrum: Spectrum) -> None:
    tally.values(case, method, "singular value", list(truth.singular_values), spectrum.raw.consistent)
    tally.values(case, method, "centred singular value", list(truth.centered), spectrum.centered.consistent)
    if spectrum.raw.folded is None:  # a row sketch states its numbers with a confidence: benchmarks row_sketch
        for name, one in estimates.estimate_all(spectrum).items():
            tally.estimate(case, method, name, truth.metrics[name], one)
        for name, one in estimates.estimate_presets(spectrum).items():
            tally.estimate(case, method, f"preset {name}", truth.presets[name], one)


def _check_measured(tally: _Tally, case: Case, truth: ball_arithmetic.Truth) -> None:
    """Check what ``measure`` returns for the stored matrix, with random options."""
    options = _options(case)
    passes = options.get("passes", 1)
    method = f"measure {options['method']}" + (f", {passes} passes" if passes > 1 else "")
    tally.counts.setdefault(method, Counter())["matrices"] += 1
    try:
        found = rs.measure(case.stored, tolerance=1e-15, **options)
    except rs.RankMeError as error:
        tally.error(case, method, error, "nothing")
        return
    _check_spectrum(tally, case, method, truth, found.spectrum)
    for name, one in found.normalized.items():
        number = truth.metrics["normalized_rankme" if name == "rankme" else name]
        tally.estimate(case, method, f"unit rows, {name}", number, one)
    for d, of_dims in found.dims.items():
        of_first = ball_arithmetic.truth(case.rows[:, :d], unit_roundoff=case.unit_roundoff)
        for name, one in of_dims.items():
            tally.estimate(case, method, f"{d} features, {name}", of_first.metrics[name], one)
    if options.get("groups") is not None:
        tally.estimate(case, method, "lidar", exact_groups.lidar(case.rows, case.labels), found["lidar"])
        for group, of_group in found.groups.items():
            of_rows = ball_arithmetic.truth(case.rows[case.labels == int(group)], unit_roundoff=case.unit_roundoff)
            for name, one in of_group.items():
                tally.estimate(case, method, f"group {group}, {name}", of_rows.metrics[name], one)


def _check_refusal(tally: _Tally, case: Case) -> None:
    """Check that values beyond the largest power of two are refused."""
    exponent = int(np.frexp(np.abs(case.rows).max())[1])
    refusal: Exception | None = None
    try:
        rs.measure(np.ldexp(case.rows, _LARGEST + 2 - exponent), tolerance=1e-15)
    except rs.RankMeError as error:
        refusal = error
    tally.error(case, f"measure beyond 2^{_LARGEST}", refusal, f"values beyond 2^{_LARGEST}")


def join(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up the parts, and name the methods that missed more often than their confidence allows."""
    counts: dict[str, Counter[str]] = {}
    for block in blocks:
        for method, count in block["counts"].items():
            counts.setdefault(method, Counter()).update(count)
    misses = [one for block in blocks for one in block["misses"]]
    failed = []
    for method, count in sorted(counts.items()):
        matrices = {one["seed"] for one in misses if one["method"] == method and one["outcome"] == "missed"}
        confidence = CONFIDENCE if "float32" in method else 0.9999 if "passes" in method else 1.0
        # each matrix has a raw and a centred spectrum
        allowed = int(binom.ppf(1 - _CHANCE, 2 * count["matrices"], 1 - confidence)) if confidence < 1.0 else 0
        count["matrices missed"], count["matrices allowed"] = len(matrices), allowed
        if len(matrices) > allowed:
            failed.append(method)
    return {"counts": counts, "misses": misses, "failed": failed}


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    counts = result["counts"]
    numbers = sum(count.get(kind, 0) for count in counts.values() for kind in ("held", "missed", "undecided"))
    header = ["method", "matrices", "held", "missed", "undecided", "withheld", "undefined", "refused",
              "matrices missed (allowed)"]  # fmt: skip
    lines = [
        "# Intervals against exact numbers, at every scale",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}.",
        "",
        f"{result['matrices']:,} matrices, {numbers:,} intervals of metrics and singular values, of integers times "
        f"powers of two from 2^-1074 to 2^{_LARGEST}. *Withheld*: the number exists and no interval is stated, with a "
        "reason. *Refused*: squares beyond the arithmetic. *Undecided*: an end is the true number to 60 digits. "
        "Float32 and several passes hold with a confidence; the others may never miss.",
    ]
    lines += table(
        "Outcomes", header,
        [
            [method, *(f"{count.get(kind, 0):,}" for kind in ("matrices", *header[2:-1])),
             f"{count['matrices missed']} ({count['matrices allowed']})"]
            for method, count in sorted(counts.items())
        ],
    )  # fmt: skip
    shown = [one for one in result["misses"] if one["outcome"] == "missed"]
    return "\n".join([*lines, "", *(f"- {one}" for one in shown[:20])]).rstrip()


def main() -> int:
    """Run, print and write the page; return 1 if a method missed more often than it may."""
    minutes: dict[Size, str] = {"quick": "15 s", "default": "30 minutes"}
    experiment = Experiment("small_exact", __doc__, minutes)
    experiment.parser.add_argument("--seed", type=int, default=_FIRST_SEED, help="first seed of the matrices")
    experiment.parser.add_argument("--matrices", type=int, default=10_000, help="number of matrices")
    arguments = experiment.start()
    first = arguments.seed
    count = 20 if experiment.size == "quick" else arguments.matrices
    blocks = []
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():  # as measure() does
        warnings.simplefilter("ignore", rs.ToleranceWarning)
        for start in range(first, first + count, _BLOCK):
            seeds = range(start, min(first + count, start + _BLOCK))
            blocks.append(experiment.part(f"seeds {start}-{seeds[-1]}", check, seeds))
    result = experiment.finish(join(blocks) | {"matrices": count}, markdown)
    return int(bool(result["failed"]))
