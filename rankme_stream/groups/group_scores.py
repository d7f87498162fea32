"""The metrics of each group, computed on access."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from rankme_stream.groups.group import ClosedGroup
from rankme_stream.spectra.estimates import METRICS, Estimate, estimate_all


class GroupScores(Mapping[str, Mapping[str, Estimate]]):
    """Every metric of each group, by name of the group.

    Parameters
    ----------
    groups
        Closed groups by name, in the order to show them in.

    Notes
    -----
    Each access takes five milliseconds: nothing is kept, so that thousands of groups take no memory beside their
    singular values.
    """

    def __init__(self, groups: Mapping[str, ClosedGroup]) -> None:
        self._groups = groups

    def __getitem__(self, name: str) -> Mapping[str, Estimate]:
        """Return every metric of a group; the details of ``rankme`` hold the number of its rows."""
        group = self._groups[name]
        if group.spectrum is None:
            return {metric: Estimate(None, reason="every row of the group was left out") for metric in METRICS}
        estimates = estimate_all(group.spectrum)
        rankme = estimates["rankme"]
        return estimates | {"rankme": replace(rankme, details={**rankme.details, "n_rows": group.n_rows})}

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._groups)

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self._groups)
