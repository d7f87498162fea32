"""The numbers of every group, worked out when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from rankme_stream.groups.group import Closed
from rankme_stream.spectra.estimates import METRICS, Estimate, estimate_all

_NO_ROW = "every row of the group was left out"


class GroupScores(Mapping[str, Mapping[str, Estimate]]):
    """Every metric of each group, by name of the group.

    Parameters
    ----------
    groups
        By name, in the order to show them in.

    Notes
    -----
    Five milliseconds a group each time that it is looked up: nothing is kept, so that thousands of groups take no
    memory beside their singular values.
    """

    def __init__(self, groups: Mapping[str, Closed]) -> None:
        self._groups = groups

    def __getitem__(self, name: str) -> Mapping[str, Estimate]:
        """Return every metric of a group; ``rankme`` says in its details of how many rows."""
        group = self._groups[name]
        if group.spectrum is None:
            return {metric: Estimate(None, reason=_NO_ROW) for metric in METRICS}
        found = estimate_all(group.spectrum)
        rankme = found["rankme"]
        return found | {"rankme": replace(rankme, details={**rankme.details, "n_rows": group.n_rows})}

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._groups)

    def __len__(self) -> int:
        """Return how many groups there are."""
        return len(self._groups)
