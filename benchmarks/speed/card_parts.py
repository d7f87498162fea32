"""The measurements of a card, one after another, in a process that ``benchmarks.harness.part_server`` watches.

``python -m benchmarks.speed.card_parts SETUP`` answers lines of the standard input. A setup names the library, the
device, the width, type and bytes of the rows, and the folder of another build of the package, to be measured instead.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from functools import cached_property, partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.harness.part_server import serve
from benchmarks.speed.card_libraries import mean_s, open_card

OTHERS: dict[str, dict[str, Any]] = {  # kinds of passes beside the plain Gram matrix, by their names on the page
    "unit rows": {"normalize": True},
    "prefixes": {"dims": (16, 32)},
    "sample": {"sample": True, "tolerance": 0.02, "confidence": 0.999},
    "QR": {"method": "tsqr"},
    "rsvd, one pass": {"method": "rsvd", "rank": 16},
    "rsvd, two passes": {"method": "rsvd", "rank": 16, "passes": 2},
    "frequent directions": {"method": "frequent-directions", "rank": 16},
    "row sketch": {"method": "row-sketch", "confidence": 0.999},
    "groups": {"groups": "rows:4096"},
}
Line = dict[str, Any]
_PRODUCT_ROWS = (1024, 4096, 65_536)  # our products have 1,024 rows, those of 16-bit rows 4,096
_COPIED_BYTES = (2**25, 2**28)
_ZARR_BYTES = 2**30
_REPEATS, _ENOUGH_S = 3, 1.0  # a pass is timed again, up to so many times, until all took so long


class CardParts:
    """Rows of one width, type and library, what they lie in, and what is measured of them."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._library, self._device, self._stored = setup["library"], setup["device"], setup["stored"]
        self._n_features, self._seconds = setup["features"], setup["seconds"]
        itemsize = 4 if self._stored == "float32" else 2
        self._n_bytes = setup["bytes"]
        self._n_rows = max(1024, self._n_bytes // (itemsize * self._n_features))
        self._workers = setup.get("workers")
        if setup.get("build"):
            sys.path.insert(0, setup["build"])
        if self._library == "torch":
            sys.modules["cupy"] = None  # type: ignore[assignment] - as if CuPy were not installed: torch computes
        self.card = open_card(self._library, self._device)

    def __call__(self, part: str, *arguments: str) -> Any:
        """Return the lines of a part."""
        parts: dict[str, Callable[..., Any]] = {
            "describe": self.card.describe,
            "copies": self.copies,
            "products": self.products,
            "operations": self.operations,
            "eigenvalues": self.eigenvalues,
            "pass": self.passes,
            "first": self.first_passes,
            "other": self.other,
        }
        return parts[part](*arguments)

    @cached_property
    def rows(self) -> Any:
        """The rows on the card."""
        return self.card.rows(self._n_rows, self._n_features, self._stored)

    @cached_property
    def pageable(self) -> np.ndarray:
        """The rows in memory of the host."""
        return self._as_stored(self.card.download(self.rows))

    @cached_property
    def pinned(self) -> np.ndarray:
        """The rows in pinned memory."""
        return self._as_stored(self.card.pin(self.card.download(self.rows)))

    def _as_stored(self, rows: np.ndarray) -> np.ndarray:
        if self._stored != "bfloat16":
            return rows
        from ml_dtypes import bfloat16

        return rows.view(bfloat16)

    @cached_property
    def true(self) -> float:
        """RankMe of the rows, computed in float64 on the card."""
        return self.true_of(self.rows)

    def true_of(self, rows: Any) -> float:
        """Return RankMe of rows on the card, computed there in float64."""
        values = np.sqrt(np.maximum(self.card.eigenvalues(self.card.gram(rows)), 0.0))
        shares = values / values.sum() + 1e-7
        return float(np.exp(-(shares * np.log(shares)).sum()))

    def copies(self) -> list[Line]:
        """Time copies of pieces as large as a block, and of long ones."""
        return [
            {"what": "copy", "from": name, "bytes": n_bytes, "s": mean_s(self.card, work, self._seconds)}
            for n_bytes in (min(n_bytes, self._n_bytes) for n_bytes in _COPIED_BYTES)
            for name, work in self.card.copies(n_bytes).items()
        ]

    def products(self) -> list[Line]:
        """Time products of the library alone, of panels of several lengths."""
        return [
            {"what": "product", "arithmetic": arithmetic, "function": function, "panel_rows": n_rows,
             "s": mean_s(self.card, work, self._seconds)}
            for n_rows in _PRODUCT_ROWS if n_rows <= self._n_rows
            for (arithmetic, function), work in self.card.products(self.rows[:n_rows]).items()
        ]  # fmt: skip

    def operations(self) -> list[Line]:
        """Time what our passes do to a slab: filling it, with one look at every value, and the products."""
        import rankme_stream as rs
        from rankme_stream.numerics.devices.card import Seen
        from rankme_stream.numerics.devices.device import Workspace
        from rankme_stream.passes.planning.card_layout import exact_product_rows

        device, lines = self._our_device(), list[Line]()
        kind, scratch = device.stored_type(self.rows, "rows"), Workspace(device)
        total = device.zeros((1 + self._n_features,) * 2)
        for precision, panel_type in (("float64", "float64"), ("float32", device.panel_type(kind))):
            planned = rs.plan(self.rows, method="gram", precision=precision)
            stored = self.rows[: planned.slab_rows]
            n_rows, n_features = stored.shape
            product_rows = planned.grid.panel_rows
            if panel_type not in ("float64", "float32"):
                product_rows = exact_product_rows(product_rows, n_rows)
            seen = Seen(
                device.zeros((n_rows,), np.uint8), device.zeros((1,)), device.zeros((n_features,), np.uint8)
            )  # fmt: skip
            slab = device.slab((n_rows, 1 + n_features), panel_type)
            overflowed = device.zeros((n_rows // product_rows,), np.uint8)
            products = {
                "float64": partial(device.add_panels, slab, product_rows, total, scratch),
                "float32": partial(device.add_float32_panels, slab, product_rows, total, overflowed, scratch),
            }
            for name, work in (
                ("fill slabs", partial(device.fill_slab, stored, kind, slab, seen, 0)),
                ("products", products[precision]),
            ):  # fmt: skip
                took = mean_s(self.card, work, self._seconds)
                lines.append({
                    "what": "operation", "name": name, "precision": precision, "panels": panel_type, "rows": n_rows,
                    "s": took,
                })  # fmt: skip
        return lines

    def eigenvalues(self) -> list[Line]:
        """Time our eigenvalues of a Gram matrix of the host: by the card, and by one thread of the host."""
        from rankme_stream.numerics import blas_threads
        from rankme_stream.numerics.devices.host import HOST

        gram, device = self.card.download(self.card.gram(self.rows)), self._our_device()
        device.eigenvalues(device.upload(gram))
        _, took = _least(lambda: device.eigenvalues(device.upload(gram)))
        with blas_threads.one_thread():
            _, host_s = _least(lambda: HOST.eigenvalues(gram.copy()))
        return [{"what": "eigenvalues", "s": took, "host_s": host_s}]

    def _our_device(self) -> Any:
        module = import_module(f"rankme_stream.numerics.devices.{self._library}")
        return module.open_device(0) if self.card.is_card else module.TorchDevice(self._device)

    def passes(self, where: str, precision: str) -> list[Line]:
        """Time our passes over rows on the card, in pinned memory, in pageable memory, or in zarr."""
        if where == "zarr":
            return self._zarr_pass(precision)
        rows = {"card": lambda: self.rows, "pinned": lambda: self.pinned, "pageable": lambda: self.pageable}[where]()
        return [{"where": where} | self._pass(rows, self.true, self._options(where, precision))]

    def _options(self, where: str, precision: str) -> dict[str, Any]:
        options = {"method": "gram", "precision": precision, "tolerance": 1.0, "workers": self._workers}
        return options | ({"device": "cuda"} if self.card.is_card and where != "card" else {})

    def _zarr_pass(self, precision: str) -> list[Line]:
        """Time a pass over rows in zarr beside their decoding alone, which all workers do at once."""
        import rankme_stream as rs
        from benchmarks.harness.synthetic_stores import Layout
        from benchmarks.speed.bare_loop import bare_loop_s

        n_rows = max(1024, min(_ZARR_BYTES, self._n_bytes) // (2 * self._n_features))
        chunk_rows = min(n_rows, 2**20 // self._n_features)
        layout = Layout("rows", n_rows, self._n_features, chunk_rows=chunk_rows, dtype=self._stored)
        with layout.stored() as path:
            decode_s = min(bare_loop_s(path, reading_alone=True) for _ in range(_REPEATS))
            source = rs.open_source(path)
            rows = source.read(0, n_rows, np.empty(source.shape, source.stored.dtype))
            true = self.true_of(self.card.upload(rows))
            line = self._pass(path, true, self._options("zarr", precision))
        return [{"where": "zarr", "decode_s": decode_s} | line]

    def _pass(self, source: Any, true: float, options: dict[str, Any]) -> Line:
        """Time a pass over all rows, and one over a quarter, whose difference is what rows cost."""
        import rankme_stream as rs

        n_rows = rs.open_source(source).shape[0]
        began = time.perf_counter()
        rs.measure(source, **options)
        first_s, quarter = time.perf_counter() - began, n_rows // 4
        rankme, took = _least(lambda: rs.measure(source, **options).rankme)
        _, quarter_s = _least(lambda: rs.measure(source, rows=(0, quarter), **options))
        return {
            "what": "pass", "precision": options["precision"], "rows": n_rows, "s": took, "first_s": first_s,
            "quarter_rows": quarter, "quarter_s": quarter_s,
        } | _interval(rankme, true)  # fmt: skip

    def first_passes(self) -> list[Line]:
        """Time the first pass of each arithmetic in this process, and the second; the rows come from the host."""
        import rankme_stream as rs

        drawn = np.random.default_rng(0).standard_normal((4096, self._n_features), dtype=np.float32)
        rows = np.tile(drawn.astype(np.float16), (max(1, self._n_rows // 4096), 1))
        lines: list[Line] = []
        for where, precision in (("pinned", "float64"), ("card", "float64"), ("card", "float32")):
            source = self.card.pin(rows) if where == "pinned" else self.card.upload(rows)
            self.card.wait()
            times = []
            for _ in range(2):
                began = time.perf_counter()
                rs.measure(source, **self._options(where, precision))
                times.append(time.perf_counter() - began)
            first_s, second_s = times
            lines.append({
                "what": "first", "where": where, "precision": precision, "rows": len(rows), "first_s": first_s,
                "second_s": second_s,
            })  # fmt: skip
        return lines

    def other(self, name: str) -> list[Line]:
        """Time another kind of pass on the card and on the host, and check its interval."""
        import rankme_stream as rs

        options = OTHERS[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rs.ToleranceWarning)  # the interval of a sketch may be wide
            to_card = options | ({"device": "cuda"} if self.card.is_card else {})
            rs.measure(self.pinned, **to_card)
            measurement, took = _least(lambda: rs.measure(self.pinned, **to_card))
            began = time.perf_counter()
            rs.measure(self.pageable, **options)
            host_s = time.perf_counter() - began
        line = {"what": "other", "name": name, "rows": self._n_rows, "s": took, "host_s": host_s}
        return [line | _interval(measurement.rankme, self.true)]


def _interval(rankme: Any, true: float) -> Line:
    """Return a value, its true error, the half-width of its interval, both relative, and whether it holds."""
    is_held = rankme.lower is not None and rankme.upper is not None and rankme.lower <= true <= rankme.upper
    width = None if rankme.half_width is None else rankme.half_width / true
    return {"true": true, "error": abs(rankme.value - true) / true, "half_width": width, "held": is_held}


def _least(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of some work and the least of its times."""
    times: list[float] = []
    while len(times) < _REPEATS and sum(times) < _ENOUGH_S:
        began = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - began)
    return result, min(times)


if __name__ == "__main__":
    serve(CardParts)
