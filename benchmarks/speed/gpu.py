"""What a card can do, what a pass makes of it, and whether every arithmetic keeps its word there.

``python -m benchmarks gpu`` measures the ceilings of a CUDA card (copies to it, products in float64, in float32 and of
16-bit rows with float32 sums, over panels of several lengths), the error of each against float64, our passes over rows
on the card, in pinned memory and in zarr, and peers. It needs torch and installs nothing; what is not there is left out
and said so. ``--quick`` takes the processor where there is no card, which tells whether it runs and nothing else.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment, Size, table
from benchmarks.speed import scaling
from benchmarks.speed.card_kernels import (
    ARITHMETICS,
    STORED,
    Card,
    Feeds,
    add_product,
    as_taken,
    product,
    widths,
    with_ones,
)
from rankme_stream.errors import DeviceError
from rankme_stream.spectra import metrics

_PINNED = 0.9  # of the copy bandwidth, wanted
_ON_CARD = 0.8  # of the ceiling of products, wanted
_FASTER = 5.0  # a pass by 16-bit products than one in float64, wanted
_HALF_WIDTH = 1e-3  # of theirs, at most
_NEEDED = ("array_api_compat", "zarr")


@dataclass(frozen=True)
class Plan:
    """What one size measures: widths, bytes of 16-bit rows, rows of a panel, seconds of one timing."""

    widths: tuple[int, ...]
    n_bytes: int
    panels: tuple[int, ...]
    seconds: float


PLANS: dict[Size, Plan] = {
    "quick": Plan((64,), 2**20, (256, 1024), 0.01),
    "default": Plan((256, 768, 1024, 4096), 2**31, (1024, 4096, 16_384, 65_536), 0.2),
}


def ceilings(card: Card, asked: Plan, n_features: int, kind: str) -> list[dict[str, Any]]:
    """Time products of one panel, and with the addition to a float64 sum; flops are those of a full product."""
    total = torch.zeros((n_features, n_features), dtype=torch.float64, device=card.place)
    found = []
    for arithmetic in ARITHMETICS:
        for n_rows in asked.panels:
            panel = as_taken(arithmetic, card.rows(n_rows, n_features, kind))
            alone_s = card.timed(partial(product, arithmetic, panel), asked.seconds)
            added_s = card.timed(partial(add_product, total, arithmetic, panel), asked.seconds)
            flops = 2.0 * n_rows * n_features**2
            found.append({
                "features": n_features, "stored": kind, "arithmetic": arithmetic, "panel_rows": n_rows,
                "alone_flops": flops / alone_s, "added_flops": flops / added_s,
            })  # fmt: skip
    return found


def panels(card: Card, asked: Plan, n_features: int) -> list[dict[str, Any]]:
    """Time products of the widths that a pass may take, in panels of float16 rows; flops are those of the features."""
    found = []
    for arithmetic in ARITHMETICS:
        rows = as_taken(arithmetic, card.rows(asked.panels[0], n_features, "float16"))
        for name, columns in widths(n_features).items():
            panel = rows if columns == n_features else with_ones(rows, columns)
            took = card.timed(partial(product, arithmetic, panel), asked.seconds)
            found.append({
                "features": n_features, "arithmetic": arithmetic, "columns": name, "panel_rows": len(panel),
                "flops": 2.0 * len(panel) * n_features**2 / took,
            })  # fmt: skip
    return found


def feeding(card: Card, asked: Plan, n_features: int) -> list[dict[str, Any]]:
    """Time ways to bring float16 rows to the card while they are multiplied there, and compare what they come to."""
    n_rows = asked.n_bytes // 2 // n_features
    held = card.rows(n_rows, n_features, "float16").cpu()
    pinned = held.pin_memory() if card.is_card else held
    found = []
    for arithmetic in ("float64", "16-bit"):
        first: Tensor | None = None
        for name, (is_pinned, way) in Feeds(card).ways().items():
            total = torch.zeros((n_features, n_features), dtype=torch.float64, device=card.place)

            def use(rows: Tensor, total: Tensor = total, arithmetic: str = arithmetic) -> None:
                add_product(total, arithmetic, as_taken(arithmetic, rows))

            rows, block_rows = pinned if is_pinned else held, max(asked.panels)
            way(rows, block_rows, use)
            once = total.clone()
            took = card.timed(partial(way, rows, block_rows, use), 1e-3)
            first = once if first is None else first
            found.append({
                "features": n_features, "arithmetic": arithmetic, "way": name, "bytes": 2 * n_rows * n_features,
                "s": took, "equal": bool((once == first).all()),
            })  # fmt: skip
    return found


def errors(card: Card, asked: Plan, n_features: int, kind: str) -> list[dict[str, Any]]:
    """Compare Gram matrices of fresh rows with that in float64."""
    rows = card.rows(max(asked.panels) * 4, n_features, kind, seed=time.time_ns() % 2**31)
    wide = rows.double()
    exact = wide.T @ wide
    largest, true = float(torch.linalg.eigvalsh(exact)[-1]), _rankme(exact)
    found = []
    for arithmetic in ARITHMETICS:
        for n_rows in asked.panels:
            total = torch.zeros_like(exact)
            for start in range(0, len(rows), n_rows):
                add_product(total, arithmetic, as_taken(arithmetic, rows[start : start + n_rows]))
            found.append({
                "features": n_features, "stored": kind, "arithmetic": arithmetic, "panel_rows": n_rows,
                "error": float(torch.linalg.matrix_norm(total - exact)) / largest,
                "rankme_error": abs(_rankme(total) - true) / true,
            })  # fmt: skip
    return found


def _rankme(gram: Tensor) -> float:
    values = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0.0).sqrt()
    return float(metrics.rankme(values.cpu().numpy()))


def copies(card: Card, asked: Plan) -> dict[str, Any]:
    """Time copies of 16-bit values in pinned memory to the card, and from the card to itself."""
    size = min(asked.n_bytes, 2**28) // 2
    there = torch.empty(size, dtype=torch.float16, device=card.place)
    here = torch.ones(size, dtype=torch.float16, pin_memory=card.is_card)
    other = torch.empty_like(there)
    return {
        "to_card": 2.0 * size / card.timed(lambda: there.copy_(here, non_blocking=True), asked.seconds),
        "within": 2.0 * size / card.timed(lambda: other.copy_(there), asked.seconds),
    }


def solving(card: Card, asked: Plan, n_features: int) -> list[dict[str, Any]]:
    """Time the eigenvalues of a Gram matrix on the card and on the host, and two ways to an R factor on the card."""
    tall = card.rows(16 * n_features, n_features, "float16").double()
    gram = tall.T @ tall
    on_host = gram.cpu().numpy()

    def cholesky_twice() -> Tensor:
        first = torch.linalg.cholesky(tall.T @ tall, upper=True)
        turned = torch.linalg.solve_triangular(first, tall, upper=True, left=False)
        return torch.linalg.cholesky(turned.T @ turned, upper=True) @ first

    ways: dict[str, Callable[[], object]] = {
        "eigenvalues there": lambda: torch.linalg.eigvalsh(gram),
        "eigenvalues on the host": lambda: np.linalg.eigvalsh(on_host),
        "R, Householder": lambda: torch.linalg.qr(tall, mode="r"),
        "R, Cholesky twice": cholesky_twice,
    }
    shared = {"features": n_features, "rows": len(tall)}
    return [shared | {"way": name, "s": card.timed(work, 1e-3)} for name, work in ways.items()]


def ours(card: Card, asked: Plan, n_features: int, kind: str) -> list[dict[str, Any]]:
    """Time our passes over rows there, in pinned memory and in zarr, and check their intervals."""
    n_rows = asked.n_bytes // 2 // n_features
    rows = card.rows(n_rows, n_features, kind)
    exact = torch.zeros((n_features, n_features), dtype=torch.float64, device=card.place)
    for start in range(0, n_rows, 2**16):
        wide = rows[start : start + 2**16].double()
        exact += wide.T @ wide
    true = _rankme(exact)
    held = rows.cpu()
    pinned = (held.pin_memory() if card.is_card else held).view(torch.int16).numpy()
    pinned = pinned.view(np.uint16 if kind == "bfloat16" else np.float16)
    found = []
    for precision in ("float64", "float32"):
        options = {"method": "gram", "precision": precision, "tolerance": 1.0}
        found.append({"where": "on the card", "precision": precision} | _pass(card, rows, true, options))
        if kind == "float16":
            there = options | ({"device": str(card.place)} if card.is_card else {})
            found.append({"where": "pinned", "precision": precision} | _pass(card, pinned, true, there))
            with _in_zarr(pinned) as (path, decode_s):
                one = _pass(card, path, true, there)
                found.append({"where": "zarr", "precision": precision, "decode_s": decode_s} | one)
    shared = {"features": n_features, "stored": kind, "rows": n_rows, "bytes": 2 * n_rows * n_features, "true": true}
    return [shared | one for one in found]


def _pass(card: Card, source: object, true: float, options: dict[str, Any]) -> dict[str, Any]:
    rs.measure(source, **options)  # libraries load their kernels
    card.wait()
    began = time.perf_counter()
    rankme = rs.measure(source, **options).rankme
    took = time.perf_counter() - began
    held = rankme.lower is not None and rankme.upper is not None and rankme.lower <= true <= rankme.upper
    width = None if rankme.half_width is None else rankme.half_width / true
    return {"s": took, "value": rankme.value, "half_width": width, "held": held}


@contextmanager
def _in_zarr(rows: np.ndarray) -> Iterator[tuple[str, float]]:
    """Store rows; give the path, and the seconds that reading alone takes on all cores."""
    with tempfile.TemporaryDirectory() as folder:
        import zarr

        path = str(Path(folder) / "rows.zarr")
        chunk_rows = min(len(rows), max(1, 2**21 // rows.shape[1]))
        zarr.create_array(path, data=rows, chunks=(chunk_rows, rows.shape[1]))
        yield path, scaling.bare(path, reading_alone=True)


def peers(card: Card, asked: Plan, n_features: int) -> list[dict[str, Any]]:
    """Time what others do with all rows at once, on the card: no interval, whole matrix in memory."""
    n_rows = min(asked.n_bytes // 2 // n_features, 64 * n_features)
    rows = card.rows(n_rows, n_features, "float16")
    ways: dict[str, Callable[[], object]] = {
        "torch svdvals, float32": lambda: torch.linalg.svdvals(rows.float()),
        "torch X.T @ X, float64": lambda: torch.linalg.eigvalsh(rows.double().T @ rows.double()),
    }
    return [
        {"features": n_features, "rows": n_rows, "way": name, "s": card.timed(work, 1e-3)}
        for name, work in ways.items()
    ]


def measured(experiment: Experiment, card: Card, asked: Plan) -> dict[str, Any]:
    """Measure everything, width by width."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    result: dict[str, Any] = {
        "card": card.describe(), "is_card": card.is_card, "missing": missing,
        "copies": experiment.part("copies", copies, card, asked),
        "ceilings": [], "panels": [], "errors": [], "feeding": [], "solving": [], "ours": [], "peers": [],
    }  # fmt: skip
    for n_features in asked.widths:
        for kind in STORED:
            for name, make in (("ceilings", ceilings), ("errors", errors)):
                result[name] += experiment.part(f"{name}, {n_features}, {kind}", make, card, asked, n_features, kind)
            if not missing:
                result["ours"] += experiment.part(f"ours, {n_features}, {kind}", ours, card, asked, n_features, kind)
        singles = {"panels": panels, "feeding": feeding, "solving": solving, "peers": peers}
        for name, make_one in singles.items():
            result[name] += experiment.part(f"{name}, {n_features}", make_one, card, asked, n_features)
    return result


def markdown(result: dict[str, Any]) -> str:
    """Return the tables."""
    facts = ", ".join(f"{name} {value}" for name, value in result["card"].items())
    copied = result["copies"]
    lines = [
        "# What a card makes of a pass",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; {facts}.",
    ]
    if not result["is_card"]:
        lines += ["", "**No card: the processor stood in for it. No figure here says anything about a card.**"]
    if result["missing"]:
        lines += ["", f"Our passes were not measured: {', '.join(result['missing'])} not installed."]
    lines += [
        "",
        f"Copies from pinned memory {copied['to_card'] / 1e9:.1f} GB/s, within the card {copied['within'] / 1e9:,.0f}.",
    ]
    tops = _tops(result["ceilings"])
    for title, name, cell in (
        ("Products, TFLOP/s: alone / added to a float64 sum (2 rows D^2 flops)", "ceilings", _rates),
        ("Error of the Gram matrix over its largest eigenvalue / of RankMe, relative", "errors", _errors),
    ):
        groups = _grouped(result[name])
        panels = [f"{one['panel_rows']:,} rows" for one in next(iter(groups.values()))]
        cells = [[f"{key[0]:,}", *key[1:], *map(cell, some)] for key, some in groups.items()]
        lines += table(title, ["D", "stored", "arithmetic", *panels], cells)
    cells = [[f"{one['features']:,}", one["arithmetic"], one["columns"], f"{one['panel_rows']:,}",
              f"{one['flops'] / 1e12:.3g}"] for one in result["panels"]]  # fmt: skip
    lines += table("Columns of a panel", ["D", "arithmetic", "columns", "rows", "TFLOP/s of D"], cells)
    cells = [[f"{one['features']:,}", one["arithmetic"], one["way"], f"{one['bytes'] / one['s'] / 1e9:.1f}",
              f"{one['bytes'] / one['s'] / copied['to_card']:.3f}", "yes" if one["equal"] else "**NO**"]
             for one in result["feeding"]]  # fmt: skip
    lines += table(
        "Rows of the host, copied and multiplied", ["D", "arithmetic", "way", "GB/s", "of copies", "same bits"], cells
    )
    shares = ["of copies", "of products", "of decoding"]
    lines += table(
        "Our passes",
        ["D", "stored", "rows are", "precision", "rows/s", "GB/s", *shares, "half-width", "held"],
        [_our_cells(one, copied, tops) for one in result["ours"]],
    )
    if result["is_card"]:
        lines += table(
            "Wanted and measured",
            ["what", "wanted", "measured", "met"],
            [[name, wanted, *_verdict(values, is_met)] for name, wanted, values, is_met in _wanted(result, tops)],
        )
    for title, name in (("Solving", "solving"), ("Others, all rows at once", "peers")):
        cells = [[f"{one['features']:,}", one["way"], f"{one['rows']:,}", f"{one['s']:.4g}"] for one in result[name]]
        lines += table(title, ["D", "way", "rows", "s"], cells)
    return "\n".join(lines)


def _rates(one: dict[str, Any]) -> str:
    return f"{one['alone_flops'] / 1e12:.3g} / {one['added_flops'] / 1e12:.3g}"


def _errors(one: dict[str, Any]) -> str:
    return f"{one['error']:.1e} / {one['rankme_error']:.1e}"


def _grouped(rows: list[dict[str, Any]]) -> dict[tuple[int, str, str], list[dict[str, Any]]]:
    groups: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["features"], row["stored"], row["arithmetic"]), []).append(row)
    return groups


def _tops(rows: list[dict[str, Any]]) -> dict[tuple[int, str, str], float]:
    """Return the fastest product of each width, type and arithmetic: its ceiling."""
    return {key: max(one["alone_flops"] for one in some) for key, some in _grouped(rows).items()}


def _shares(one: dict[str, Any], copied: dict[str, float], tops: dict[tuple[int, str, str], float]) -> dict[str, Any]:
    """Return what part of each ceiling a pass reaches."""
    flops = 2.0 * one["rows"] * one["features"] ** 2 / one["s"]
    arithmetic = "float64" if one["precision"] == "float64" else "16-bit"
    return {
        "copies": one["bytes"] / one["s"] / copied["to_card"] if one["where"] == "pinned" else None,
        "products": flops / tops[one["features"], one["stored"], arithmetic],
        "decoding": one["decode_s"] / one["s"] if "decode_s" in one else None,
    }


def _our_cells(one: dict[str, Any], copied: dict[str, float], tops: dict[tuple[int, str, str], float]) -> list[str]:
    shares = ["" if share is None else f"{share:.3f}" for share in _shares(one, copied, tops).values()]
    return [
        f"{one['features']:,}", one["stored"], one["where"], one["precision"], f"{one['rows'] / one['s']:,.0f}",
        f"{one['bytes'] / one['s'] / 1e9:.2f}", *shares,
        "-" if one["half_width"] is None else f"{one['half_width']:.1e}", "yes" if one["held"] else "NO",
    ]  # fmt: skip


def _wanted(
    result: dict[str, Any], tops: dict[tuple[int, str, str], float]
) -> list[tuple[str, str, list[float], Callable[[float], bool]]]:
    """Return what is wanted of a card, and what was measured of it, case by case."""
    made = [(one, _shares(one, result["copies"], tops)) for one in result["ours"]]
    there = {
        (one["features"], one["stored"], one["precision"]): one["s"] for one, _ in made if one["where"] == "on the card"
    }
    faster = [there[d, kind, "float64"] / s for (d, kind, precision), s in there.items() if precision == "float32"]
    narrow = [one for one, _ in made if one["precision"] == "float32" and one["half_width"] is not None]
    return [
        ("pinned 16-bit rows, D to 1,024, of the copy bandwidth", f"at least {_PINNED}",
         [share["copies"] for one, share in made if one["where"] == "pinned" and one["features"] <= 1024],
         lambda share: share >= _PINNED),
        ("rows on the card, of the fastest product", f"at least {_ON_CARD}",
         [share["products"] for one, share in made if one["where"] == "on the card"], lambda share: share >= _ON_CARD),
        ("zarr, of what the host decodes", f"at least {_PINNED}",
         [share["decoding"] for _, share in made if share["decoding"] is not None], lambda share: share >= _PINNED),
        ("16-bit products against float64, rows on the card", f"at least {_FASTER:g} times", faster,
         lambda ratio: ratio >= _FASTER),
        ("half-width of 16-bit products", f"at most {_HALF_WIDTH:g}", [one["half_width"] for one in narrow],
         lambda width: width <= _HALF_WIDTH),
        ("intervals that hold", "all", [float(one["held"]) for one, _ in made], lambda held: held == 1.0),
    ]  # fmt: skip


def _verdict(values: list[float], is_met: Callable[[float], bool]) -> tuple[str, str]:
    if not values:
        return "not measured", "-"
    return f"{min(values):.3g} to {max(values):.3g}", "yes" if all(map(is_met, values)) else "**no**"


def main() -> int:
    """Measure and print; 1 if an interval failed."""
    experiment = Experiment("gpu", __doc__, {"quick": "20 s", "default": "8 minutes"})
    experiment.start()
    if not torch.cuda.is_available() and experiment.size != "quick":
        raise SystemExit(DeviceError("PyTorch finds no CUDA card: run this where there is one, or --quick").args[0])
    torch.backends.cuda.matmul.allow_tf32 = False
    card = Card("cuda:0" if torch.cuda.is_available() else "cpu")
    result = experiment.finish(measured(experiment, card, PLANS[experiment.size]), markdown)
    return int(not all(one["held"] for one in result["ours"]))
