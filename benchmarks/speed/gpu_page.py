"""The page of `benchmarks gpu`: tables, and measurements beside their targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.harness.experiment import table

_PINNED = 0.9  # target: share of the copy bandwidth
_ON_CARD = 0.8  # target: share of the ceiling of products
_FASTER = 5.0  # target: float64 pass over one by 16-bit products
_HALF_WIDTH = 1e-3  # target: most of a pass by 16-bit products


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    facts = ", ".join(f"{name} {value}" for name, value in result["card"].items())
    copied = result["copies"]
    lines = [
        "# Passes on a GPU",
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
    lines += [*_product_lines(result), *_feeding_lines(result), *_pass_lines(result, tops)]
    for title, name in (("Solving", "solving"), ("Other libraries, all rows at once", "peers")):
        cells = [[f"{one['features']:,}", one["way"], f"{one['rows']:,}", f"{one['s']:.4g}"] for one in result[name]]
        lines += table(title, ["D", "way", "rows", "s"], cells)
    return "\n".join(lines)


def _product_lines(result: dict[str, Any]) -> list[str]:
    lines = []
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
    return lines + table("Columns of a panel", ["D", "arithmetic", "columns", "rows", "TFLOP/s of D"], cells)


def _feeding_lines(result: dict[str, Any]) -> list[str]:
    to_card = result["copies"]["to_card"]
    cells = [[f"{one['features']:,}", one["arithmetic"], one["way"], f"{one['bytes'] / one['s'] / 1e9:.1f}",
              f"{one['bytes'] / one['s'] / to_card:.3f}", "yes" if one["equal"] else "**NO**"]
             for one in result["feeding"]]  # fmt: skip
    header = ["D", "arithmetic", "way", "GB/s", "share of copies", "same bits"]
    return table("Rows of the host, copied and multiplied", header, cells)


def _pass_lines(result: dict[str, Any], tops: dict[tuple[int, str, str], float]) -> list[str]:
    shares = ["share of copies", "share of products", "share of decoding"]
    lines = table(
        "Our passes",
        ["D", "stored", "rows are", "precision", "rows/s", "GB/s", *shares, "half-width", "interval holds"],
        [_our_cells(one, result["copies"], tops) for one in result["ours"]],
    )
    if result["is_card"]:
        lines += table(
            "Targets and measurements",
            ["quantity", "target", "measured", "met"],
            [[name, bound, *_verdict(values, is_met)] for name, bound, values, is_met in _targets(result, tops)],
        )
    return lines


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
    """Return the ceiling of each width, type and arithmetic: its fastest product."""
    return {key: max(one["alone_flops"] for one in some) for key, some in _grouped(rows).items()}


def _shares(one: dict[str, Any], copied: dict[str, float], tops: dict[tuple[int, str, str], float]) -> dict[str, Any]:
    """Return the share of each ceiling that a pass reaches."""
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


def _targets(
    result: dict[str, Any], tops: dict[tuple[int, str, str], float]
) -> list[tuple[str, str, list[float], Callable[[float], bool]]]:
    """Return every target: its name, its bound, the measurements, and the test that each must pass."""
    passes = [(one, _shares(one, result["copies"], tops)) for one in result["ours"]]
    on_card = {
        (one["features"], one["stored"], one["precision"]): one["s"]
        for one, _ in passes
        if one["where"] == "on the card"
    }
    faster = [on_card[d, kind, "float64"] / s for (d, kind, precision), s in on_card.items() if precision == "float32"]
    narrow = [one for one, _ in passes if one["precision"] == "float32" and one["half_width"] is not None]
    return [
        ("pinned 16-bit rows, D up to 1,024, share of the copy bandwidth", f"at least {_PINNED}",
         [share["copies"] for one, share in passes if one["where"] == "pinned" and one["features"] <= 1024],
         lambda share: share >= _PINNED),
        ("rows on the card, share of the fastest product", f"at least {_ON_CARD}",
         [share["products"] for one, share in passes if one["where"] == "on the card"],
         lambda share: share >= _ON_CARD),
        ("zarr, share of the decoding speed of the host", f"at least {_PINNED}",
         [share["decoding"] for _, share in passes if share["decoding"] is not None], lambda share: share >= _PINNED),
        ("16-bit products against float64, rows on the card", f"at least {_FASTER:g} times", faster,
         lambda ratio: ratio >= _FASTER),
        ("half-width of 16-bit products", f"at most {_HALF_WIDTH:g}", [one["half_width"] for one in narrow],
         lambda width: width <= _HALF_WIDTH),
        ("intervals that hold", "all", [float(one["held"]) for one, _ in passes], lambda is_held: is_held == 1.0),
    ]  # fmt: skip


def _verdict(values: list[float], is_met: Callable[[float], bool]) -> tuple[str, str]:
    if not values:
        return "not measured", "-"
    return f"{min(values):.3g} to {max(values):.3g}", "yes" if all(map(is_met, values)) else "**no**"
