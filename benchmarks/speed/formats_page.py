"""Page of ``python -m benchmarks formats``."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.experiment import table


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# Speed of every format",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}. Ratios are times of the other over ours, "
        "medians of rounds in turn: above 1 we are faster.",
    ]
    n_rows, width = result["shapes"][0]
    shown = []
    for name, one in result["reading"].items():
        ours, own = (f"{one['bytes'] / one['seconds'][key] / 1e9:.2f}" for key in ("ours", "own"))
        shown.append([name, ours, own, f"{one['ratios']['own']:.2f}"])
    title = f"Reading blocks of {n_rows:,} x {width} into a reused buffer"
    lines += table(title, ["format", "ours, GB/s", "own reader, GB/s", "ratio"], shown)
    shown = [
        [one["format"], f"{one['shape'][0]:,} x {one['shape'][1]}", f"{one['seconds']['ours']:.2f}", loop,
         f"{one['seconds'][loop]:.2f}", f"{ratio:.2f}"]
        for one in result["scoring"]
        for loop, ratio in one["ratios"].items()
    ]  # fmt: skip
    lines += table("Whole score", ["format", "rows x width", "ours, s", "loop", "loop, s", "ratio"], shown)
    shown = [[name, f"{one['shards']:,}", f"{min(one['seconds']):.3f}"] for name, one in result["opening"].items()]
    lines += table("Opening a folder", ["format", "shards", "seconds"], shown)
    shown = []
    for name, one in result["remote"].items():
        ours, plain = (f"{one['bytes'] / one['seconds'][key] / 1e6:,.0f}" for key in ("ours", "download"))
        shown.append([name, ours, plain, f"{one['ratios']['download']:.2f}"])
    lines += table("S3 on loopback", ["format", "ours, MB/s", "plain download, MB/s", "ratio"], shown)
    if result["left_out"]:
        lines += table("Left out", ["format", "why"], [*result["left_out"].items()])
    return "\n".join(lines)
