"""The page of `benchmarks gpu`: what holds and what falls short, and the measurements behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.experiment import table

Line = dict[str, Any]
_ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4}
_LIBRARIES = {"cupy": "CuPy", "torch": "torch"}
_WIDTHS = (256, 768, 1024, 2048)  # of the requirements; 16-bit products are required at 4,096 too
_HALVES = (*_WIDTHS, 4096)


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = ["# Passes on a CUDA card", "", f"`{result['command']}`, {result['date']}, {result['machine']}."]
    for library, facts in result["facts"].items():
        lines += ["", f"{_LIBRARIES[library]}: {', '.join(f'{name} {value}' for name, value in facts.items())}."]
    if not result["is_card"]:
        stand_in = " The processor stood in for it: no figure of passes below says anything about a card."
        lines += ["", f"**No card.**{stand_in if result['facts'] else ''} No requirement is judged."]
    if result["missing"]:
        lines += ["", f"Not installed: {', '.join(result['missing'])}."]
    lines += _verdict_lines(result) + _pass_lines(result) + _limit_lines(result) + _other_lines(result)
    lines += _host_lines(result)
    if result["left_out"]:
        lines += table("Not measured", ["part", "why"], [[one["part"], one["why"]] for one in result["left_out"]])
    return "\n".join(lines)


@dataclass(frozen=True)
class Requirement:
    """A quantity, its bound, and what was measured of it, by library: (label, value), None where it is missing."""

    name: str
    bound: str
    is_met: Callable[[float], bool]
    values: dict[str, list[tuple[str, float | None]]]

    def verdict(self, library: str) -> str:
        """Return whether it holds, falls short, or was not measured."""
        values = self.values[library]
        short = [label for label, value in values if value is not None and not self.is_met(value)]
        missing = [label for label, value in values if value is None]
        if short:
            return f"**falls short**: {', '.join(short)}"
        if missing:
            return "not measured" + ("" if len(missing) == len(values) else f": {', '.join(missing)}")
        return "holds"


class Measured:
    """The lines of a run, looked up by what they measure."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines

    def of(self, what: str, **wanted: Any) -> list[Line]:
        """Return the lines that measure something, with the wanted fields."""
        return [
            line for line in self.lines
            if line["what"] == what and all(line.get(name) == value for name, value in wanted.items())
        ]  # fmt: skip

    def link(self) -> float | None:
        """Return the fastest copy from pinned memory of the run, bytes a second."""
        return max((line["bytes"] / line["s"] for line in self.of("copy", **{"from": "pinned"})), default=None)

    def top(self, n_features: int, arithmetic: str) -> float | None:
        """Return the rate of the fastest product of an arithmetic and a width in the run, rows a second."""
        products = self.of("product", features=n_features, arithmetic=arithmetic)
        return max((line["panel_rows"] / line["s"] for line in products), default=None)

    def a_pass(self, library: str, n_features: int, where: str, precision: str) -> Line | None:
        """Return our pass over float16 rows."""
        wanted = {"library": library, "features": n_features, "where": where, "precision": precision}
        found = [line for line in self.of("pass", stored="float16", **wanted) if "build" not in line]
        return found[0] if found else None


def rows_per_s(line: Line) -> float:
    """Return the rate of the rows that a whole pass has more than one over a quarter of them."""
    spent = line["s"] - line["quarter_s"]
    return (line["rows"] - line["quarter_rows"]) / spent if spent > 0.0 else line["rows"] / line["s"]


def bytes_per_s(line: Line) -> float:
    """Return that rate in bytes."""
    return rows_per_s(line) * line["features"] * _ITEMSIZE[line["stored"]]


def _ratio(over: float | None, under: float | None) -> float | None:
    return None if over is None or under is None else over / under


def requirements(result: dict[str, Any]) -> list[Requirement]:
    """Return every requirement with its measurements; none counts without a card."""
    run = Measured(result["lines"] if result["is_card"] else [])

    def each(value: Callable[[str, int], float | None], widths: Iterable[int] = _WIDTHS) -> Any:
        return {library: [(f"{d:,}", value(library, d)) for d in widths] for library in _LIBRARIES}

    def rate(library: str, d: int, where: str, precision: str = "float64") -> float | None:
        line = run.a_pass(library, d, where, precision)
        return None if line is None else rows_per_s(line)

    def gigabytes(library: str, d: int, where: str) -> float | None:
        return _ratio(rate(library, d, where), 1e9 / (2 * d))

    def decoded(library: str, d: int) -> float | None:
        line = run.a_pass(library, d, "zarr", "float64")
        return None if line is None else rows_per_s(line) * line["decode_s"] / line["rows"]

    def width(library: str, d: int) -> float | None:
        line = run.a_pass(library, d, "card", "float32")
        return None if line is None else line["half_width"]

    def older(library: str, d: int) -> float | None:
        old = [line for line in run.of("pass", library=library, features=d, where="card") if "build" in line]
        return _ratio(rate(library, d, "card"), rows_per_s(old[0]) if old else None)

    first = {
        library: [(f"{line['where']} {line['precision']}", line["first_s"] - line["second_s"])
                  for line in run.of("first", library=library)] or [("all", None)]
        for library in _LIBRARIES
    }  # fmt: skip
    held = {
        library: [(_label(line), float(line["held"])) for line in run.lines
                  if "held" in line and "build" not in line and line["library"] == library] or [("all", None)]
        for library in _LIBRARIES
    }  # fmt: skip
    link = run.link()
    share = "share of the fastest product of the run"
    return [
        Requirement("pinned rows, float64: share of the copy bandwidth", "at least 0.9", lambda x: x >= 0.9,
                    each(lambda name, d: _ratio(gigabytes(name, d, "pinned"), _ratio(link, 1e9)))),
        Requirement("pageable rows, float64: GB/s, on 16 cores", "at least 20", lambda x: x >= 20.0,
                    each(lambda name, d: gigabytes(name, d, "pageable") if result["cores"] >= 16 else None)),
        Requirement("zarr rows, float64: share of what the host decodes alone", "at least 0.9", lambda x: x >= 0.9,
                    each(decoded)),
        Requirement(f"rows on the card, float64: {share}", "at least 0.8", lambda x: x >= 0.8,
                    each(lambda name, d: _ratio(rate(name, d, "card"), run.top(d, "float64")))),
        Requirement(f"rows on the card, 16-bit: {share}", "at least 0.8", lambda x: x >= 0.8,
                    each(lambda name, d: _ratio(rate(name, d, "card", "float32"), run.top(d, "16-bit")), _HALVES)),
        Requirement("rows on the card, 16-bit over float64", "at least 5", lambda x: x >= 5.0,
                    each(lambda name, d: _ratio(rate(name, d, "card", "float32"), rate(name, d, "card")), (4096,))),
        Requirement("16-bit: half-width of RankMe, relative", "at most 1e-3", lambda x: x <= 1e-3,
                    each(width, _HALVES)),
        Requirement("rows on the card, float64: speed over the older build", "at least 30", lambda x: x >= 30.0,
                    each(older, (768,))),
        Requirement("first pass, no kernel compiled before: seconds over the second", "at most 3", lambda x: x <= 3.0,
                    first),
        Requirement("intervals that hold the value in float64", "all", lambda x: x == 1.0, held),
    ]  # fmt: skip


def _label(line: Line) -> str:
    """Return a name of a pass for a verdict."""
    words = (line.get("name"), line.get("where"), line.get("precision"), line.get("build"))
    return " ".join([f"{line['features']:,}", line["stored"], *(word for word in words if word)])


def _verdict_lines(result: dict[str, Any]) -> list[str]:
    if not result["is_card"]:
        return []
    cells = []
    for one in requirements(result):
        for library in result["facts"]:
            known = [(label, value) for label, value in one.values[library] if value is not None]
            shown = (
                f"{sum(value for _, value in known):.0f} of {len(known)}"
                if one.bound == "all" and known
                else (", ".join(f"{label}: {value:.3g}" for label, value in known) or "-")
            )
            cells.append([one.name, one.bound, _LIBRARIES[library], shown, one.verdict(library)])
    text = (
        "The rate of a pass is three quarters of its rows over the seconds that it takes longer than a pass over the "
        "first quarter alone, so that solving, which takes the same time for any number of rows, does not count. The "
        "next table has the seconds of both. Our products of 16-bit rows are 4,096 rows long, for the sake of the "
        "intervals; the fastest product of the run may be longer."
    )
    return [*table("What holds", ["requirement", "bound", "library", "measured", "verdict"], cells), "", text]


def _pass_lines(result: dict[str, Any]) -> list[str]:
    run = Measured(result["lines"])
    link, cells = run.link(), []
    for line in run.of("pass"):
        rate = bytes_per_s(line)
        arithmetic = "float64" if line["precision"] == "float64" else "16-bit"
        if line["stored"] == "float32":
            arithmetic = line["precision"]
        shares = (
            _ratio(rate, link) if line["where"] == "pinned" else None,
            _ratio(rows_per_s(line), run.top(line["features"], arithmetic)),
            rows_per_s(line) * line["decode_s"] / line["rows"] if "decode_s" in line else None,
        )
        cells.append([
            f"{line['features']:,}", line["stored"], _LIBRARIES[line["library"]] + _older(line), line["where"],
            line["precision"], f"{rate / 1e9:.3g}", *("" if share is None else f"{share:.3f}" for share in shares),
            f"{line['rows']:,}", f"{line['s']:.3g}", f"{line['quarter_s']:.3g}", f"{line['first_s']:.3g}",
            *_interval_cells(line),
        ])  # fmt: skip
    header = [
        "D", "stored", "library", "rows are", "precision", "GB/s", "share of copies", "share of products",
        "share of decoding", "rows",
        "s", "s of a quarter", "s of the first", *_INTERVAL,
    ]  # fmt: skip
    return table("Our passes over a Gram matrix", header, cells) if cells else []


_INTERVAL = ("true error", "half-width", "interval holds")


def _interval_cells(line: Line) -> list[str]:
    width = "-" if line["half_width"] is None else f"{line['half_width']:.1e}"
    return [f"{line['error']:.1e}", width, "yes" if line["held"] else "**no**"]


def _older(line: Line) -> str:
    return f", {line['build']}" if "build" in line else ""


def _limit_lines(result: dict[str, Any]) -> list[str]:
    """Return tables of copies, of products, of our own operations on a slab, and of eigenvalues."""
    run, lines = Measured(result["lines"]), []
    copies = [
        [f"{line['features']:,}", _LIBRARIES[line["library"]], line["from"], f"{line['bytes'] / 2**20:.0f}",
         f"{line['bytes'] / line['s'] / 1e9:.3g}"] for line in run.of("copy")
    ]  # fmt: skip
    products = [
        [f"{line['features']:,}", line["stored"], _LIBRARIES[line["library"]], line["arithmetic"], line["function"],
         f"{line['panel_rows']:,}", f"{2e-12 * line['panel_rows'] * line['features'] ** 2 / line['s']:.3g}",
         f"{2e-9 * line['panel_rows'] * line['features'] / line['s']:.3g}"] for line in run.of("product")
    ]  # fmt: skip
    operations = [
        [f"{line['features']:,}", _LIBRARIES[line["library"]], line["name"], line["precision"], line["panels"],
         f"{line['rows']:,}", f"{line['s'] * 1e6:.0f}", f"{2e-9 * line['rows'] * line['features'] / line['s']:.3g}"]
        for line in run.of("operation")
    ]  # fmt: skip
    eigenvalues = [
        [f"{line['features']:,}", _LIBRARIES[line["library"]], f"{line['s']:.3g}", f"{line['host_s']:.3g}"]
        for line in run.of("eigenvalues")
    ]  # fmt: skip
    rates = "GB/s of 16-bit rows"
    for title, header, cells in (
        ("Copies", ["D", "library", "from", "MiB", "GB/s"], copies),
        ("Products alone, 2 rows D^2 flops",
         ["D", "stored", "library", "arithmetic", "function", "rows", "TFLOP/s", rates], products),
        ("Our operations on a slab, alone",
         ["D", "library", "operation", "precision", "panels", "rows", "us", rates], operations),
        ("Eigenvalues of a Gram matrix", ["D", "library", "s", "s of the host"], eigenvalues),
    ):  # fmt: skip
        lines += table(title, header, cells) if cells else []
    return lines


def _other_lines(result: dict[str, Any]) -> list[str]:
    """Return tables of first passes and of other kinds of passes."""
    run = Measured(result["lines"])
    first = [
        [_LIBRARIES[line["library"]], f"{line['features']:,}", line["where"], line["precision"],
         f"{line['rows']:,}", f"{line['first_s']:.3g}", f"{line['second_s']:.3g}"] for line in run.of("first")
    ]  # fmt: skip
    lines = table(
        "First passes of a process, no kernel compiled before",
        ["library", "D", "rows are", "precision", "rows", "s of the first", "s of the second"], first,
    ) if first else []  # fmt: skip
    others = [
        [_LIBRARIES[line["library"]], f"{line['features']:,}", line["name"], f"{line['rows']:,}", f"{line['s']:.3g}",
         f"{line['host_s']:.3g}", *_interval_cells(line)] for line in run.of("other")
    ]  # fmt: skip
    header = ["library", "D", "pass", "rows", "s", "s of the host", *_INTERVAL]
    return lines + (table("Other passes over float16 rows in pinned memory", header, others) if others else [])


def _host_lines(result: dict[str, Any]) -> list[str]:
    """Return tables of the host alone and of the queueing of segments."""
    run, lines = Measured(result["lines"]), []
    hosts = run.of("host")
    counts = sorted({line["cores"] for line in hosts})
    ways = {line["way"]: {} for line in hosts}
    for line in hosts:
        ways[line["way"]][line["cores"]] = 2e-9 * line["rows"] * line["features"] / line["s"]
    if hosts:
        title = f"The host alone, whole passes, D = {hosts[0]['features']:,}: GB/s of float16 rows"
        header = ["way", *(f"{count} core{'s' * (count > 1)}" for count in counts)]
        cells = [[way, *(f"{rates[c]:.3g}" if c in rates else "-" for c in counts)] for way, rates in ways.items()]
        lines += table(title, header, cells)
    queued = [
        [f"{line['features']:,}", line["precision"], f"{line['rows'] / line['segments']:,.0f}",
         f"{line['calls']:.1f}", f"{line['s'] / line['segments'] * 1e6:.0f}",
         f"{2e-9 * line['rows'] * line['features'] / line['s']:.3g}",
         f"{2 * line['rows'] * line['features'] / line['model_s'] / line['link']:.2f}"] for line in run.of("queue")
    ]  # fmt: skip
    header = [
        "D", "precision", "rows a segment", "calls a segment", "us a segment", "GB/s of float16 rows at most",
        "share of the link, modelled",
    ]  # fmt: skip
    title = "What Python takes to queue a pass, without a card"
    text = (
        "Measured in place of a card with an object that does nothing. The last column is no measurement: it adds the "
        "seconds that an assumed card would take (`benchmarks/speed/queueing.py`)."
    )
    return [*lines, *([*table(title, header, queued), "", text] if queued else [])]
