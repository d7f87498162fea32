"""Remarks on a result: facts about its rows that change what its numbers say, and where some were computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORTH_A_REMARK = 0.01  # share of the rows


def remarks(result: Mapping[str, Any]) -> list[str]:
    """Return the remarks on a result in its JSON form, one sentence or two each."""
    audit, n_rows = result["audit"], result["rows_read"]
    found = list(result["source"].get("remarks", ()))
    if n_rows < result["source"]["n_features"]:
        found.append(
            f"There are fewer rows than features: RankMe, but for its epsilon, is at most {n_rows:,}, the number of "
            "rows, whatever the embeddings."
        )
    is_kept = result["rules"]["zeros"] == "count"
    if is_kept and (zero := audit["rows_zero"]) > _WORTH_A_REMARK * n_rows:
        found.append(
            f"{_share(zero, n_rows)} of the rows are zero throughout. Centred numbers measure the gap between them and "
            "the others too; the option `zeros` leaves them out."
        )
    if (constant := audit["rows_constant"]) > _WORTH_A_REMARK * n_rows:
        found.append(
            f"{_share(constant, n_rows)} of the rows hold one number in all features, the first is row "
            f"{audit['first_constant']:,}: if it stands for missing data, the option `nodata` names it."
        )
    if (sampling := result["sampling"]) is not None and sampling.get("independent_rows") is not None:
        n_sampled, independent = sampling["units_read"] * sampling["unit_rows"], sampling["independent_rows"]
        if independent < min(n_rows, n_sampled) / 2:
            found.append(
                "Rows stored together are alike (copies, or sorted): they count as "
                f"{independent:,.0f} independent rows."
            )
    if odd := (result.get("sampling") or {}).get("odd_chunks"):
        found += _of_odd_chunks(odd)
    cards = [name for one in result["provenance"].get("workers", ()) if (name := one.get("device", "cpu")) != "cpu"]
    if result.get("groups") and cards:
        found.append(f"Groups and LiDAR were computed on the processor, not on {cards[0]}.")
    return found


_HELD = {
    "zeros": "rows of zeros in", "one number a row": "rows of one number in", "copies": "copies of rows in",
    "not finite": "rows that are not finite or no data in", "unreadable": "not readable:",
    "usual": "nothing of note in",
}  # fmt: skip


def _of_odd_chunks(odd: Mapping[str, Any]) -> list[str]:
    """Return what chunks of unlike size hold, if there are any."""
    if not odd["examples"]:
        return []
    first, most = odd["examples"][0], odd["chunks"]
    start, stop = first["rows"]
    held = ", ".join(
        f"{_HELD[name]} {count:,}" if name in _HELD else f"{name} in {count:,}" for name, count in odd["holds"].items()
    )
    return [
        f"{odd['found']:,} of {most:,} chunks are stored in a size unlike the others, most of all that of rows "
        f"{start:,} to {stop - 1:,} ({first['z']:+.3g} robust standard deviations). Of {odd['read']:,} that were read "
        f"beside the sample: {held}. They have no part in its numbers."
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2g} %" if part < whole else "All"
