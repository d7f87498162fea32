"""How near do passes on a CUDA card come to its limits, and do their intervals hold?

``python -m benchmarks gpu`` measures the ceilings of a card (copies to it, products in float64, in float32 and of
16-bit rows with float32 sums, over panels of several lengths), the error of each arithmetic against float64, our passes
over rows on the card, in pinned memory and in zarr, and peers. It needs torch; the page names other packages that are
missing, and what was left out for them. ``--quick`` uses the processor where there is no card: a test that the
benchmark runs, and nothing else.
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
from benchmarks.harness.experiment import Experiment, Size
from benchmarks.speed import gpu_page
from benchmarks.speed.bare_loop import bare_loop_s
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

_NEEDED = ("array_api_compat", "zarr")


@dataclass(frozen=True)
class Plan:
    """Measurements of one size: widths, bytes of 16-bit rows, rows of a panel, seconds of one timing."""

    widths: tuple[int, ...]
    n_bytes: int
    panels: tuple[int, ...]
    seconds: float


PLANS: dict[Size, Plan] = {
    "quick": Plan((64,), 2**20, (256, 1024), 0.01),
    "default": Plan((256, 768, 1024, 4096), 2**31, (1024, 4096, 16_384, 65_536), 0.2),
}


def ceilings(card: Card, size: Plan, n_features: int, kind: str) -> list[dict[str, Any]]:
    """Time products of one panel, alone and with the addition to a float64 sum; flops count the full product."""
    total = torch.zeros((n_features, n_features), dtype=torch.float64, device=card.device)
    results = []
    for arithmetic in ARITHMETICS:
        for n_rows in size.panels:
            panel = as_taken(arithmetic, card.rows(n_rows, n_features, kind))
            alone_s = card.timed(partial(product, arithmetic, panel), size.seconds)
            added_s = card.timed(partial(add_product, total, arithmetic, panel), size.seconds)
            flops = 2.0 * n_rows * n_features**2
            results.append({
                "features": n_features, "stored": kind, "arithmetic": arithmetic, "panel_rows": n_rows,
                "alone_flops": flops / alone_s, "added_flops": flops / added_s,
            })  # fmt: skip
    return results


def panels(card: Card, size: Plan, n_features: int) -> list[dict[str, Any]]:
    """Time products of the widths that a pass may take, in panels of float16 rows; flops count the features only."""
    results = []
    for arithmetic in ARITHMETICS:
        rows = as_taken(arithmetic, card.rows(size.panels[0], n_features, "float16"))
        for name, columns in widths(n_features).items():
            panel = rows if columns == n_features else with_ones(rows, columns)
            took = card.timed(partial(product, arithmetic, panel), size.seconds)
            results.append({
                "features": n_features, "arithmetic": arithmetic, "columns": name, "panel_rows": len(panel),
                "flops": 2.0 * len(panel) * n_features**2 / took,
            })  # fmt: skip
    return results


def feeding(card: Card, size: Plan, n_features: int) -> list[dict[str, Any]]:
    """Time ways to copy float16 rows to the card while they are multiplied there, and compare their sums."""
    n_rows = size.n_bytes // 2 // n_features
    on_host = card.rows(n_rows, n_features, "float16").cpu()
    pinned = on_host.pin_memory() if card.is_card else on_host
    results = []
    for arithmetic in ("float64", "16-bit"):
        first: Tensor | None = None
        for name, (is_pinned, way) in Feeds(card).ways().items():
            total = torch.zeros((n_features, n_features), dtype=torch.float64, device=card.device)

            def use(rows: Tensor, total: Tensor = total, arithmetic: str = arithmetic) -> None:
                add_product(total, arithmetic, as_taken(arithmetic, rows))

            rows, block_rows = pinned if is_pinned else on_host, max(size.panels)
            way(rows, block_rows, use)
            one_sum = total.clone()
            took = card.timed(partial(way, rows, block_rows, use), 1e-3)
            first = one_sum if first is None else first
            results.append({
                "features": n_features, "arithmetic": arithmetic, "way": name, "bytes": 2 * n_rows * n_features,
                "s": took, "equal": bool((one_sum == first).all()),
            })  # fmt: skip
    return results


def errors(card: Card, size: Plan, n_features: int, kind: str) -> list[dict[str, Any]]:
    """Compare Gram matrices of new random rows, in every arithmetic, with that in float64."""
    rows = card.rows(max(size.panels) * 4, n_features, kind, seed=time.time_ns() % 2**31)
    wide = rows.double()
    exact = wide.T @ wide
    largest, true = float(torch.linalg.eigvalsh(exact)[-1]), _rankme(exact)
    results = []
    for arithmetic in ARITHMETICS:
        for n_rows in size.panels:
            total = torch.zeros_like(exact)
            for start in range(0, len(rows), n_rows):
                add_product(total, arithmetic, as_taken(arithmetic, rows[start : start + n_rows]))
            results.append({
                "features": n_features, "stored": kind, "arithmetic": arithmetic, "panel_rows": n_rows,
                "error": float(torch.linalg.matrix_norm(total - exact)) / largest,
                "rankme_error": abs(_rankme(total) - true) / true,
            })  # fmt: skip
    return results


def _rankme(gram: Tensor) -> float:
    values = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0.0).sqrt()
    return float(metrics.rankme(values.cpu().numpy()))


def copies(card: Card, size: Plan) -> dict[str, Any]:
    """Time copies of 16-bit values in pinned memory to the card, and from the card to itself."""
    n_values = min(size.n_bytes, 2**28) // 2
    on_card = torch.empty(n_values, dtype=torch.float16, device=card.device)
    pinned = torch.ones(n_values, dtype=torch.float16, pin_memory=card.is_card)
    other = torch.empty_like(on_card)
    return {
        "to_card": 2.0 * n_values / card.timed(lambda: on_card.copy_(pinned, non_blocking=True), size.seconds),
        "within": 2.0 * n_values / card.timed(lambda: other.copy_(on_card), size.seconds),
    }


def solving(card: Card, size: Plan, n_features: int) -> list[dict[str, Any]]:
    """Time the eigenvalues of a Gram matrix on the card and on the host, and two R factors on the card."""
    tall = card.rows(16 * n_features, n_features, "float16").double()
    gram = tall.T @ tall
    on_host = gram.cpu().numpy()

    def cholesky_twice() -> Tensor:
        first = torch.linalg.cholesky(tall.T @ tall, upper=True)
        basis = torch.linalg.solve_triangular(first, tall, upper=True, left=False)
        return torch.linalg.cholesky(basis.T @ basis, upper=True) @ first

    ways: dict[str, Callable[[], object]] = {
        "eigenvalues on the card": lambda: torch.linalg.eigvalsh(gram),
        "eigenvalues on the host": lambda: np.linalg.eigvalsh(on_host),
        "R, Householder": lambda: torch.linalg.qr(tall, mode="r"),
        "R, Cholesky twice": cholesky_twice,
    }
    shared = {"features": n_features, "rows": len(tall)}
    return [shared | {"way": name, "s": card.timed(work, 1e-3)} for name, work in ways.items()]


def ours(card: Card, size: Plan, n_features: int, kind: str) -> list[dict[str, Any]]:
    """Time our passes over rows on the card, in pinned memory and in zarr, and check their intervals."""
    n_rows = size.n_bytes // 2 // n_features
    rows = card.rows(n_rows, n_features, kind)
    exact = torch.zeros((n_features, n_features), dtype=torch.float64, device=card.device)
    for start in range(0, n_rows, 2**16):
        wide = rows[start : start + 2**16].double()
        exact += wide.T @ wide
    true = _rankme(exact)
    on_host = rows.cpu()
    pinned = (on_host.pin_memory() if card.is_card else on_host).view(torch.int16).numpy()
    pinned = pinned.view(np.uint16 if kind == "bfloat16" else np.float16)
    results = []
    for precision in ("float64", "float32"):
        options = {"method": "gram", "precision": precision, "tolerance": 1.0}
        results.append({"where": "on the card", "precision": precision} | _pass(card, rows, true, options))
        if kind == "float16":
            to_card = options | ({"device": str(card.device)} if card.is_card else {})
            results.append({"where": "pinned", "precision": precision} | _pass(card, pinned, true, to_card))
            with _in_zarr(pinned) as (path, decode_s):
                one = _pass(card, path, true, to_card)
                results.append({"where": "zarr", "precision": precision, "decode_s": decode_s} | one)
    shared = {"features": n_features, "stored": kind, "rows": n_rows, "bytes": 2 * n_rows * n_features, "true": true}
    return [shared | one for one in results]


def _pass(card: Card, source: object, true: float, options: dict[str, Any]) -> dict[str, Any]:
    rs.measure(source, **options)  # not timed: libraries load their kernels
    card.wait()
    began = time.perf_counter()
    rankme = rs.measure(source, **options).rankme
    took = time.perf_counter() - began
    is_held = rankme.lower is not None and rankme.upper is not None and rankme.lower <= true <= rankme.upper
    width = None if rankme.half_width is None else rankme.half_width / true
    return {"s": took, "value": rankme.value, "half_width": width, "held": is_held}


@contextmanager
def _in_zarr(rows: np.ndarray) -> Iterator[tuple[str, float]]:
    """Store rows; yield the path, and the seconds that reading alone takes on all cores."""
    with tempfile.TemporaryDirectory() as folder:
        import zarr

        path = str(Path(folder) / "rows.zarr")
        chunk_rows = min(len(rows), max(1, 2**21 // rows.shape[1]))
        zarr.create_array(path, data=rows, chunks=(chunk_rows, rows.shape[1]))
        yield path, bare_loop_s(path, reading_alone=True)


def peers(card: Card, size: Plan, n_features: int) -> list[dict[str, Any]]:
    """Time other libraries on the card, with the whole matrix in memory; they state no interval."""
    n_rows = min(size.n_bytes // 2 // n_features, 64 * n_features)
    rows = card.rows(n_rows, n_features, "float16")
    ways: dict[str, Callable[[], object]] = {
        "torch svdvals, float32": lambda: torch.linalg.svdvals(rows.float()),
        "torch X.T @ X, float64": lambda: torch.linalg.eigvalsh(rows.double().T @ rows.double()),
    }
    return [
        {"features": n_features, "rows": n_rows, "way": name, "s": card.timed(work, 1e-3)}
        for name, work in ways.items()
    ]


def measured(experiment: Experiment, card: Card, size: Plan) -> dict[str, Any]:
    """Run every part of the benchmark, width by width."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    result: dict[str, Any] = {
        "card": card.describe(), "is_card": card.is_card, "missing": missing,
        "copies": experiment.part("copies", copies, card, size),
        "ceilings": [], "panels": [], "errors": [], "feeding": [], "solving": [], "ours": [], "peers": [],
    }  # fmt: skip
    for n_features in size.widths:
        for kind in STORED:
            for name, make in (("ceilings", ceilings), ("errors", errors)):
                result[name] += experiment.part(f"{name}, {n_features}, {kind}", make, card, size, n_features, kind)
            if not missing:
                result["ours"] += experiment.part(f"ours, {n_features}, {kind}", ours, card, size, n_features, kind)
        singles = {"panels": panels, "feeding": feeding, "solving": solving, "peers": peers}
        for name, make_one in singles.items():
            result[name] += experiment.part(f"{name}, {n_features}", make_one, card, size, n_features)
    return result


def main() -> int:
    """Run, print and write the page; return 1 if an interval does not hold."""
    experiment = Experiment("gpu", __doc__, {"quick": "20 s", "default": "8 minutes"})
    experiment.start()
    if not torch.cuda.is_available() and experiment.size != "quick":
        raise SystemExit(DeviceError("PyTorch finds no CUDA card: run this where there is one, or --quick").args[0])
    torch.backends.cuda.matmul.allow_tf32 = False
    card = Card("cuda:0" if torch.cuda.is_available() else "cpu")
    result = experiment.finish(measured(experiment, card, PLANS[experiment.size]), gpu_page.markdown)
    return int(not all(one["held"] for one in result["ours"]))
