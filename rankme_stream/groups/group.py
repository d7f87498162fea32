"""One group of rows: kept as rows while they are few, then as their Gram matrix, and closed with the last row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.kept_rows import TurnedRows
from rankme_stream.accumulators.method import PANEL_ROWS
from rankme_stream.accumulators.row_gram import row_gram_spectrum
from rankme_stream.groups.rows_about_mean import RowsAboutMean
from rankme_stream.groups.within_scatter import WithinScatter
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.spectra.spectrum import Spectrum


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """A group that still lacks some of its rows.

    A group keeps its rows, as they are stored, as long as there are no more of them than features, and its Gram matrix
    from then on. So what a node of the merge tree holds of a group depends on the node's rows alone.

    Attributes
    ----------
    batch
        Batch of the jackknife over groups that this group is in.
    n_expected, n_seen
        Number of rows of the group in the whole pass, and of those seen so far, rows left out included.
    pieces
        Rows in order, shape ``(n, D)`` each; none once there is a Gram.
    gram
        Gram accumulator of the rows; None as long as they are kept.
    """

    batch: int
    n_expected: int
    n_seen: int
    pieces: tuple[Array, ...]
    gram: GramAccumulator | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every row of the group was seen."""
        return self.n_seen == self.n_expected

    @property
    def n_rows(self) -> int:
        """Number of rows kept, or in the Gram."""
        return sum(map(len, self.pieces)) if self.gram is None else self.gram.n_rows

    def compact(self, n_features: int, scratch: Workspace) -> OpenGroup:
        """Return the group with a Gram in place of its rows if they outnumber the features; else the group itself."""
        if self.gram is not None or self.n_rows <= n_features:
            return self
        return replace(self, pieces=(), gram=self._gram(n_features, scratch))

    def _gram(self, n_features: int, scratch: Workspace) -> GramAccumulator:
        if self.gram is not None:
            return self.gram
        gram = GramAccumulator(n_features)  # not given the scratch, which it would keep alive
        rows = self._rows(n_features) if len(self.pieces) != 1 else self.pieces[0]
        panel = scratch.room("group panel", (min(PANEL_ROWS, len(rows)), n_features + 1))
        panel[:, 0] = 1.0
        for start in range(0, len(rows), PANEL_ROWS):
            some = rows[start : start + PANEL_ROWS]
            filled = panel[: len(some), :]
            filled[:, 1:] = some
            gram.fit_exponent(filled, gram.exponent_with(filled))
            for part in gram.parts:
                gram.update_part(part, filled, scratch)
            gram.count(filled)
        return gram

    def _rows(self, n_features: int) -> Array:
        return np.concatenate(self.pieces) if self.pieces else np.empty((0, n_features), np.float32)

    def merge(self, other: OpenGroup, n_features: int, scratch: Workspace) -> OpenGroup:
        """Return both joined, the rows of ``other`` last; neither changes."""
        n_seen = self.n_seen + other.n_seen
        if self.gram is None and other.gram is None:
            both = replace(self, n_seen=n_seen, pieces=self.pieces + other.pieces)
            return both.compact(n_features, scratch)
        gram = self._gram(n_features, scratch).merge(other._gram(n_features, scratch))
        return replace(self, n_seen=n_seen, pieces=(), gram=gram)

    def close(self, n_features: int, scatter: WithinScatter, unit_roundoff: float) -> tuple[ClosedGroup, FloatArray]:
        """Return the closed group, and count it in a scatter.

        Also return the rows less their mean, for the caller to add to the scatter; none if the Gram was added here.
        """
        nothing = np.empty((0, n_features))
        if self.gram is not None:
            lower, error = self.gram.about_mean()
            scatter.add_matrix(lower, error)
            scatter.count(self.gram.n_rows)
            mean, mean_error = self.gram.sums() / self.gram.n_rows, self.gram.mean_error
            spectrum = self.gram.spectrum(unit_roundoff=unit_roundoff)
            return ClosedGroup(self.batch, self.gram.n_rows, mean, mean_error, spectrum), nothing
        if self.n_rows == 0:
            return ClosedGroup(self.batch, 0, np.zeros(n_features), 0.0, None), nothing
        rows = self._rows(n_features).astype(np.float64)
        few, spectrum = RowsAboutMean(rows), row_gram_spectrum(TurnedRows([rows]), unit_roundoff=unit_roundoff)
        closed = ClosedGroup(self.batch, few.n_rows, few.mean, few.mean_error, spectrum)
        if few.n_rows == 1:  # the row is its own mean, and says nothing of the spread about it
            return closed, nothing
        scatter.count(few.n_rows, few.scatter_error)
        return closed, few.centered


@dataclass(frozen=True, slots=True)
class ClosedGroup:
    """A group whose rows were all seen.

    Attributes
    ----------
    batch
        Batch of the jackknife over groups that this group is in.
    n_rows
        Number of rows kept; 0 if each was left out.
    mean, mean_error
        Mean of the rows, shape ``(D,)``, and a bound on the Euclidean norm of its error.
    spectrum
        Spectrum of the rows; None if there are none.
    """

    batch: int
    n_rows: int
    mean: FloatArray
    mean_error: float
    spectrum: Spectrum | None
