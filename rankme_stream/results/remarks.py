"""Remarks on a result: facts about its rows that change what its numbers say, and where some were computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORTH_A_REMARK = 0.01  # share of the rows


def remarks(result: Mapping[str, Any]) -> list[str]:
    """Return the remarks on a result in its JSON form, one sentence or two each."""
    audit, n_rows = result["audit"], result["rows_read"]
    found = []
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
    cards = [name for one in result["provenance"].get("workers", ()) if (name := one.get("device", "cpu")) != "cpu"]
    if result.get("groups") and cards:
        found.append(f"Groups and LiDAR were computed on the processor, not on {cards[0]}.")
    return found


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2g} %" if part < whole else "All"
