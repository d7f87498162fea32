"""How fast is a pass beside its lower limit and other libraries, and where does its time go?

``python -m benchmarks speed`` writes a zarr array of 400,000 x 768 float16 and runs every peer on it in a process of
its own, each next to a float64 pass of ours, so that ratios compare neighbouring runs. Lower limits are measured
throughout the run. Runs that other work on the machine disturbed are repeated. Reads are warm. A run that is killed
goes on with its next part when ``--out`` names the same folder.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zarr

import rankme_stream as rs
from benchmarks.harness import processes
from benchmarks.harness.cpu_profile import where_time_goes
from benchmarks.harness.experiment import Experiment, table
from benchmarks.speed import lower_limits, peers
from benchmarks.speed.peers import PEERS
from rankme_stream.spectra import metrics

_SHAPES = {"quick": (20_000, 64), "default": (400_000, 768)}
_CHUNK_ROWS = 4096
_SLAB_ROWS = 8 * _CHUNK_ROWS
_OURS = "rankme float64"
_OUR_OTHERS = ("rankme auto", "rankme qr")
_QUICK = (*_OUR_OTHERS, "naive Gram float64", "numpy svd float64")
_LIMITS = 5  # measurements of the lower limit in one run
_SLOW_S = 60.0  # a peer that takes longer runs once
_AGREE = 1e-9  # relative; QR and numpy's SVD are both accurate to 1e-12 here

_START_UP = {
    "rankme --help": (["-m", "rankme_stream", "--help"], 0.3),
    "import rankme_stream": (["-c", "import rankme_stream"], 0.5),
    "rankme demo": (["-m", "rankme_stream", "demo"], 1.5),
}
_AT_MOST, _AT_LEAST = "at most", "at least"
_TARGETS = (  # ratios of wall seconds, and memory
    ("float64 / limit", _AT_MOST, 1.15),
    ("sklearnex covariance float64 / float64", _AT_LEAST, 1.7),
    ("torch svdvals float32 / float64", _AT_LEAST, 4.0),
    ("numpy svd float64 / float64", _AT_LEAST, 9.0),
    ("dask svd, BLAS not held to 1 thread / float64", _AT_LEAST, 20.0),
    ("dask svd / float64", _AT_LEAST, 20.0),
    ("sklearn IncrementalPCA / float64", _AT_LEAST, 12.0),
    ("float64 / auto", _AT_LEAST, 1.3),
    ("qr / float64", _AT_MOST, 5.0),
    ("peak memory of ours, MB", _AT_MOST, 350.0),
)


def make_store(path: Path, n_rows: int, n_features: int) -> None:
    """Write Gaussian rows with a random rotation, a small mean, and singular values that fall like k^-1/2."""
    if path.exists():
        return
    generator = np.random.default_rng(0)
    rotation = np.linalg.qr(generator.standard_normal((n_features, n_features)))[0]
    basis = (np.arange(1.0, n_features + 1)[:, None] ** -0.5 * rotation).astype(np.float32)
    mean = generator.standard_normal(n_features, dtype=np.float32) / 100
    unfinished = path.with_suffix(".unfinished")
    array = zarr.create_array(
        unfinished, shape=(n_rows, n_features), chunks=(_CHUNK_ROWS, n_features), dtype="f2", overwrite=True
    )
    for start in range(0, n_rows, _SLAB_ROWS):
        n_slab = min(_SLAB_ROWS, n_rows - start)
        rows = generator.standard_normal((n_slab, n_features), dtype=np.float32) @ basis + mean
        array[start : start + n_slab] = rows.astype(np.float16)
    unfinished.rename(path)


def truth(uri: str) -> dict[str, Any]:
    """Return RankMe of the rows and of the centred rows, by our QR and by numpy's SVD, which must agree."""
    spectrum = rs.measure(uri, method="tsqr").spectrum
    rows = zarr.open_array(uri, mode="r")[:].astype(np.float64)
    both = {"raw": (metrics.rankme(spectrum.singular_values), metrics.rankme(np.linalg.svd(rows, compute_uv=False)))}
    rows -= rows.mean(axis=0)
    ours, numpy = spectrum.centered_singular_values, np.linalg.svd(rows, compute_uv=False)
    both["centred"] = metrics.rankme(ours), metrics.rankme(numpy)
    for name, (one, other) in both.items():
        if not math.isclose(one, other, rel_tol=_AGREE):
            raise SystemExit(f"RankMe, {name}: QR gives {one!r} and numpy's SVD {other!r}")
    return {name: {"qr": one, "numpy": other} for name, (one, other) in both.items()}


def watched(arguments: Sequence[str], is_patient: bool) -> tuple[dict[str, Any], str]:
    """Run this interpreter, again if patient and the run was disturbed; return its figures and output."""

    def make() -> processes.Run:
        return processes.run([sys.executable, *arguments])

    done = processes.quiet_runs(make, 1)[0] if is_patient else make()
    return done.to_dict(), done.output


def json_of(module: str, arguments: Sequence[str], is_patient: bool) -> dict[str, Any]:
    """Run a module that prints a line of JSON; return that, and the figures of the process as ``process``."""
    process, output = watched(["-m", module, *arguments], is_patient)
    return json.loads(output.splitlines()[-1]) | {"process": process}


def beside_ours(name: str, uri: str, repeats: int, is_patient: bool) -> dict[str, Any]:
    """Run a peer and our float64 pass in turn."""
    pairs = []
    for _ in range(repeats):
        peer = json_of(peers.__name__, [name, uri], is_patient)
        if "missing" in peer:
            return peer
        pairs.append({"peer": peer, "ours": json_of(peers.__name__, [_OURS, uri], is_patient)})
        if peer["elapsed_s"] > _SLOW_S:
            break
    return {"pairs": pairs}


def limit_beside_ours(uri: str, is_patient: bool) -> dict[str, Any]:
    """Measure the lower limit of a pass, and run our float64 pass."""
    options = [] if is_patient else ["--seconds", "0.01", "--rounds", "1"]
    limit = json_of(lower_limits.__name__, [uri, *options], is_patient)
    return {"limit": limit, "ours": json_of(peers.__name__, [_OURS, uri], is_patient)}


def start_up(repeats: int, is_patient: bool) -> dict[str, Any]:
    """Run whole processes that do little, and return their figures by name."""
    return {
        name: [watched(arguments, is_patient)[0] for _ in range(repeats)]
        for name, (arguments, _) in _START_UP.items()
    }  # fmt: skip


def run(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Make the array and run everything, with the limits spread evenly among the peers."""
    is_patient = experiment.size != "quick"
    shape = _SHAPES[experiment.size]
    path = folder / f"speed-{shape[0]}x{shape[1]}.zarr"
    make_store(path, *shape)
    uri = str(path)
    result: dict[str, Any] = {"shape": shape, "truth": experiment.part("truth", truth, uri), "peers": {}, "limits": []}
    names = [name for name in PEERS if name != _OURS and (is_patient or name in _QUICK)]
    n_limits = _LIMITS if is_patient else 1
    for index, name in enumerate(names):
        if index * n_limits // len(names) == len(result["limits"]):
            label = f"limit {len(result['limits']) + 1}"
            result["limits"].append(experiment.part(label, limit_beside_ours, uri, is_patient))
        repeats = (5 if name in _OUR_OTHERS else 3) if is_patient else 1
        result["peers"][name] = experiment.part(name, beside_ours, name, uri, repeats, is_patient)
    result["where"] = experiment.part("where the time goes", where_time_goes, uri)
    result["start_up"] = experiment.part("start-up", start_up, 5 if is_patient else 1, is_patient)
    rows = [_row(_OURS, [(one["ours"], one["ours"]) for one in result["limits"]], result["truth"])]
    for name, part in result["peers"].items():
        pairs = [(pair["peer"], pair["ours"]) for pair in part.get("pairs", ())]
        rows.append(_row(name, pairs, result["truth"]) if pairs else {"name": name, "missing": part["missing"]})
    return result | {"rows": rows, "wanted": _compare_with_targets(result, rows)}


def _row(name: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]], truths: dict[str, Any]) -> dict[str, Any]:
    """Summarize the runs of a peer, each with the run of ours beside it."""
    runs = [peer for peer, _ in pairs]
    true = truths["centred" if PEERS[name].is_centered else "raw"]["numpy"]
    return {
        "name": name,
        "version": runs[0]["version"],
        "wall_s": _spread([peer["elapsed_s"] for peer in runs]),
        "cpu_s": _spread([peer["cpu_s"] for peer in runs]),
        "wall_ratio": _spread([peer["elapsed_s"] / ours["elapsed_s"] for peer, ours in pairs]),
        "cpu_ratio": _spread([peer["cpu_s"] / ours["cpu_s"] for peer, ours in pairs]),
        "peak_mb": max(peer["process"]["peak_bytes"] for peer in runs) / 1e6,
        "rankme": runs[0]["rankme"],
        "relative_error": max(abs(peer["rankme"] - true) / true for peer in runs),
        "quiet": f"{sum(peer['process']['is_quiet'] for peer in runs)} of {len(runs)}",
    }


def _spread(values: Sequence[float]) -> list[float]:
    """Return the median, the least and the largest."""
    return [median(values), min(values), max(values)]


def _compare_with_targets(result: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every target with its measurement, and with the figure that a pass at the limit would reach."""
    measured = {f"{row['name']} / float64".removeprefix("rankme "): row["wall_ratio"]
             for row in rows if "wall_ratio" in row}  # fmt: skip
    measured["float64 / limit"] = _spread(
        [one["ours"]["elapsed_s"] / one["limit"]["limit_s"] for one in result["limits"]]
    )
    middle, least, most = measured["auto / float64"]
    measured["float64 / auto"] = [1 / middle, 1 / most, 1 / least]
    ours = [row["peak_mb"] for row in rows if row["name"] in (_OURS, *_OUR_OTHERS)]
    measured["peak memory of ours, MB"] = [max(ours)]
    limit_s = median(one["limit"]["limit_s"] for one in result["limits"])
    at_limit = {f"{row['name']} / float64": row["wall_s"][0] / limit_s for row in rows if "wall_s" in row}
    return [
        {"what": what, "wanted": f"{relation} {bound:g}", "measured": measured.get(what),
         "at_the_limit": at_limit.get(what),
         "is_met": (measured[what][0] <= bound) == (relation == _AT_MOST) if what in measured else None}
        for what, relation, bound in _TARGETS
    ]  # fmt: skip


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    n_rows, n_features = result["shape"]
    text = f"{n_rows:,} x {n_features} float16, zstd, chunks of {_CHUNK_ROWS:,} rows, read from the page cache."
    lines = ["# How fast a pass is", "", f"`{result['command']}`, {result['date']}, {result['machine']};", text]
    lines += table(
        "Our passes and other libraries: medians (least to most), ratios of neighbouring runs",
        ["peer", "wall s", "CPU s", "wall / float64", "CPU / float64", "peak MB", "RankMe", "relative error", "quiet"],
        [
            [row["name"], *(_shown(row[key]) for key in ("wall_s", "cpu_s", "wall_ratio", "cpu_ratio")),
             f"{row['peak_mb']:,.0f}", f"{row['rankme']:.4f}", f"{row['relative_error']:.1g}", row["quiet"]]
            if "wall_s" in row else [f"{row['name']}: {row['missing']} is not installed", *["-"] * 8]
            for row in result["rows"]
        ],
    )  # fmt: skip
    versions = sorted({row["version"] for row in result["rows"] if "version" in row})
    lines += [
        "",
        "Times run from the opened array to the number. Quiet: runs that nothing else on the machine disturbed. "
        "sklearnex and IncrementalPCA centre the rows and are compared with the centred truth. "
        f"{', '.join(versions)}.",
    ]
    lines += table(
        "Targets and measurements: ratios of wall seconds, and memory",
        ["quantity", "target", "measured", "met", "by a pass at the limit"],
        [
            [
                one["what"],
                one["wanted"],
                _shown(one["measured"]),
                {True: "yes", False: "**no**", None: "-"}[one["is_met"]],
                "-" if one["at_the_limit"] is None else f"{one['at_the_limit']:.3g}",
            ]
            for one in result["wanted"]
        ],
    )
    lines += [
        "",
        "Where a pass at the limit would miss the target as well, no float64 product on this machine can meet it.",
    ]
    return "\n".join([*lines, *_limit_lines(result), *_time_lines(result)])


def _limit_lines(result: dict[str, Any]) -> list[str]:
    limits = [one["limit"] for one in result["limits"]]
    candidates = [
        (part, name, [limit["parts"][part]["candidates"][name] for limit in limits])
        for part, figures in limits[0]["parts"].items()
        for name in figures["candidates"]
    ]
    fastest = Counter((part, limit["parts"][part]["best"]) for limit in limits for part in limit["parts"])
    walls = _shown(_spread([limit["limit_s"] for limit in limits]))
    lines = table(
        f"Lower limit of a pass: {walls} s, the fastest candidate of each part over {limits[0]['cores']} cores",
        ["part", "candidate", "CPU s", "wall s", "times the fastest"],
        [
            [part, name, _shown(_spread([one["cpu_s"] for one in figures])),
             f"{median(one['wall_s'] for one in figures):.3g}", fastest[part, name]]
            for part, name, figures in candidates
        ],
    )  # fmt: skip
    lines += ["", *(f"Not run: {name}, {reason}." for name, reason in limits[0]["unavailable"].items())]
    in_order = ", ".join(f"{limit['limit_s']:.3g}" for limit in limits)
    return [*lines, f"Limits in the order measured: {in_order} s."]


def _time_lines(result: dict[str, Any]) -> list[str]:
    where = result["where"]
    ours = [one["ours"] for one in result["limits"]]
    outside = median(one["process"]["cpu_s"] - one["cpu_s"] for one in ours)
    lines = table(
        "Where the time of a float64 pass goes",
        ["part", "CPU s", "share"],
        [[name, f"{seconds:.3f}", f"{seconds / where['total']:.1%}"] for name, seconds in where.items()]
        + [["start, imports and warm-up of the process", f"{outside:.3f}", "outside"]],
    )
    return lines + table(
        "Start-up: whole processes, wall seconds",
        ["process", "target: at most", "measured", "quiet"],
        [
            [name, target, _shown(_spread([one["wall_s"] for one in result["start_up"][name]])),
             f"{sum(one['is_quiet'] for one in result['start_up'][name])} of {len(result['start_up'][name])}"]
            for name, (_, target) in _START_UP.items()
        ],
    )  # fmt: skip


def _shown(spread: list[float] | None) -> str:
    if spread is None:
        return "not measured"
    middle, *ends = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in spread)
    return f"{middle} ({' to '.join(ends)})" if len(set(spread)) > 1 else middle


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw wall seconds and peak memory of every peer."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path.name} is not drawn: matplotlib is not installed")
        return
    rows = sorted((row for row in result["rows"] if "wall_s" in row), key=lambda row: -row["wall_s"][0])
    figure = Figure(figsize=(10, 1 + 0.35 * len(rows)), layout="constrained")
    seconds, memory = figure.subplots(1, 2, sharey=True)
    names = [row["name"] for row in rows]
    colors = ["tab:blue" if name.startswith("rankme") else "tab:gray" for name in names]
    for axes, values, label in (
        (seconds, [row["wall_s"][0] for row in rows], "wall seconds, median"),
        (memory, [row["peak_mb"] for row in rows], "peak memory, MB"),
    ):
        texts = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values]
        axes.bar_label(axes.barh(names, values, color=colors, zorder=2), texts, padding=2)
        axes.set(xscale="log", xlabel=label, xlim=(min(values) / 3, max(values) * 3))
    limit_s = median(one["limit"]["limit_s"] for one in result["limits"])
    seconds.axvline(limit_s, color="tab:red", linestyle="--", label=f"limit of float64, {limit_s:.3g} s", zorder=1)
    seconds.legend(loc="upper right")
    figure.suptitle("RankMe of {:,} x {} float16 from zarr".format(*result["shape"]))
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run, print and write the page, and draw the plot."""
    experiment = Experiment("speed", __doc__, {"quick": "20 s", "default": "40 minutes"})
    experiment.parser.add_argument("--store", type=Path, help="folder that keeps the array; a temporary one by default")
    arguments = experiment.start()
    with ExitStack() as stack:
        folder = arguments.store or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        result = experiment.finish(run(experiment, folder.resolve()), markdown)
    if experiment.out:
        plot(result, experiment.out / "speed.png")
