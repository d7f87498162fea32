r"""LiDAR: the number of directions in which groups differ, relative to the spread of rows within groups.

With n groups, mu_i the mean of group i, mu the mean of the mu_i, and N rows e_ij in all,

    S_b = 1/n sum_i (mu_i - mu)(mu_i - mu)',      S_w = 1/N sum_ij (e_ij - mu_i)(e_ij - mu_i)' + delta I,
    LiDAR = exp(-sum p ln p),  p = l/sum(l) + eps,  l the D eigenvalues of S_b v = l S_w v.

Every group counts once in S_b and every row once in S_w; with groups of q rows each, N = n q, this is the paper's
definition.

References
----------
V. Thilak et al., LiDAR: Sensing linear probing performance in joint embedding SSL architectures, ICLR 2024, arXiv
2312.04000. It takes the eigenvalues of S_w^-1/2 S_b S_w^-1/2, which are the same; eps and delta are those of the
published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh

from rankme_stream.errors import SpectrumError
from rankme_stream.groups.grouped_rows import GroupedRows
from rankme_stream.groups.within_scatter import WithinScatter, join_scatters
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.quantiles import student_quantile
from rankme_stream.numerics.rounding import SMALLEST, U, gamma
from rankme_stream.numerics.scaling import exponent_of, scaled
from rankme_stream.spectra import intervals, metrics
from rankme_stream.spectra.estimates import Estimate
from rankme_stream.spectra.jackknife import standard_error
from rankme_stream.spectra.spectrum import ConsistentSet

DELTA, EPSILON = 1e-4, 1e-7
DEFINITION = (
    f"exp(-sum p ln p), p = l/sum(l) + {EPSILON:g}, l of the means of groups against the rows about them + {DELTA:g}"
)
_LARGEST_ERROR = 0.01  # relative to the least eigenvalue of S_w
_FEWEST_BATCHES = 8  # for a standard error


class _Eigenvalues(NamedTuple):
    """The l, descending, shape ``(D,)``, and bounds on their true values."""

    values: FloatArray
    consistent: ConsistentSet

    @property
    def lidar(self) -> float:
        return metrics.rankme(self.values, EPSILON)


@dataclass(frozen=True)
class _GroupMeans:
    """Means of groups, shape ``(n, D)``, their errors and batches, shape ``(n,)``, and the scatter of each batch."""

    means: FloatArray
    errors: FloatArray
    batches: Array
    scatters: Mapping[int, WithinScatter]

    def without(self, batch: int) -> _GroupMeans:
        """Return the groups outside a batch."""
        kept = self.batches != batch
        scatters = {other: scatter for other, scatter in self.scatters.items() if other != batch}
        return _GroupMeans(self.means[kept, :], self.errors[kept], self.batches[kept], scatters)

    def eigenvalues(self) -> _Eigenvalues:
        """Return the eigenvalues of S_b against S_w.

        With E the error of S_w and F that of S_b, x'S_w x is known to within |E| x'x and x'S_b x to within |F| x'x, and
        x'x <= x'S_w x / l_min(S_w); by Courant and Fischer every l lies between (l - phi)/(1 + eta) and
        (l + phi)/(1 - eta), eta = |E|/l_min, phi = |F|/l_min. The solver adds (D + 32) u times |S_w| to |E| and times
        |S_b| to |F|, an empirical margin in the form of the bound of LAPACK's sygv.

        Raises
        ------
        SpectrumError
            If |E| is more than a hundredth of l_min(S_w), delta included.

        Notes
        -----
        About 7 D^3 flops and 6 D^2 numbers.
        """
        n_groups, n_features = self.means.shape
        between, between_error = self._between()
        within, error = self._within()
        spread = HOST.eigenvalues(within)
        margin = (n_features + 32) * U
        error += margin * float(spread[0])
        if error > _LARGEST_ERROR * (float(spread[-1]) - error):
            raise SpectrumError(
                f"the scatter of rows about the means of their groups is known to within {error:.2g}, too much beside "
                f"its least eigenvalue, {float(spread[-1]):.2g} with delta {DELTA:g}: subtract a common mean from the "
                "rows, or scale them"
            )
        least = float(spread[-1]) - error
        eta = error / least
        phi = (between_error + margin * float(np.trace(between))) / least
        computed = np.maximum(eigh(between, within, eigvals_only=True, check_finite=False)[::-1], 0.0)
        zeros = max(0, n_features - n_groups + 1)
        lower = np.maximum(np.nextafter((computed - phi) / (1.0 + eta), -np.inf), 0.0)
        upper = np.nextafter((computed + phi) / (1.0 - eta), np.inf)
        consistent = ConsistentSet(lower, upper).with_zeros(zeros)
        if consistent.lower[0] == 0.0:
            raise SpectrumError("the means of all groups are the same to within the arithmetic")
        return _Eigenvalues(np.clip(computed, consistent.lower, consistent.upper), consistent)

    def _between(self) -> tuple[FloatArray, float]:
        """Return S_b, times a power of two if its entries are tiny, and a bound on the Frobenius norm of its error.

        LiDAR takes the shares of the eigenvalues in their sum, so the factor changes nothing.
        """
        n, exponent = len(self.means), exponent_of(float(np.abs(self.means).max()))
        means, errors = scaled(self.means, exponent), scaled(self.errors, exponent)
        centered = means - means.sum(axis=0) / n
        norm_of_means, norm = float(np.linalg.norm(means)), float(np.linalg.norm(centered))
        shift = 2.0 * float(np.linalg.norm(errors)) + gamma(n + 2) * norm_of_means + U * norm
        error = shift * (2.0 * norm + shift) + gamma(n + 3) * norm**2 + n * means.size * SMALLEST
        return centered.T @ centered / n, error / n * (1.0 + 2.0**-20)

    def _within(self) -> tuple[FloatArray, float]:
        """Return S_w, its lower triangle valid, and a bound on the Frobenius norm of its error."""
        scatter = join_scatters(self.scatters[batch] for batch in sorted(self.scatters))
        within = scatter.lower() / scatter.n_rows
        within[np.diag_indices_from(within)] += DELTA
        trace = float(np.trace(within))
        return within, (scatter.error / scatter.n_rows + 3.0 * U * trace) * (1.0 + 2.0**-20)


def estimate_lidar(grouped: GroupedRows, *, confidence: float, workers: int) -> Estimate:
    """Return LiDAR of the groups of all rows.

    ``lower`` and ``upper`` bound the error of the arithmetic for these rows. ``details`` has the parameters, and the
    interval over groups: how much LiDAR would vary if as many other groups were drawn like these, estimated by leaving
    out a sixteenth of the groups at a time. It does not hold for more groups, whose LiDAR is larger.

    Parameters
    ----------
    confidence
        Confidence of the interval over groups.
    workers
        Number of threads.

    Notes
    -----
    7 D^3 flops a batch of groups, 17 in all.
    """
    scored = [group for group in grouped.closed.values() if group.n_rows > 1]
    sizes = [group.n_rows for group in scored]
    details: dict[str, Any] = {
        "delta": DELTA, "epsilon": EPSILON, "groups": len(scored), "groups_left_out": len(grouped.groups) - len(scored),
        "rows": sum(sizes), "rows_per_group": [min(sizes, default=0), max(sizes, default=0)],
    }  # fmt: skip
    if len(scored) < 2:
        return Estimate(None, reason="LiDAR needs two groups of two rows or more", details=details)
    means = _GroupMeans(
        np.array([group.mean for group in scored]), np.array([group.mean_error for group in scored]),
        np.array([group.batch for group in scored]), grouped.scatters,
    )  # fmt: skip
    try:
        eigenvalues = means.eigenvalues()
    except SpectrumError as error:
        return Estimate(None, reason=str(error), details=details)
    value = eigenvalues.lidar
    lower, upper = intervals.entropy_rank(eigenvalues.consistent, eps=EPSILON)
    details |= _interval_over_groups(means, value, confidence, workers)
    return Estimate(value, min(lower, value), max(upper, value), 1.0, ("arithmetic",), details=details)


def _interval_over_groups(means: _GroupMeans, value: float, confidence: float, workers: int) -> dict[str, Any]:
    """Return the interval over groups and its standard error, or the reason why there is none."""
    batches, counts = np.unique(means.batches, return_counts=True)
    if len(batches) < _FEWEST_BATCHES:
        return {"over_groups": None, "over_groups_reason": f"{len(batches)} groups are too few to leave some out"}
    try:
        with blas_threads.threads(workers, "rankme-lidar") as pool:
            without = list(pool.map(lambda batch: means.without(batch).eigenvalues().lidar, batches.tolist()))
    except SpectrumError as error:
        return {"over_groups": None, "over_groups_reason": f"without some of the groups {error}"}
    spread = standard_error(value, without, (counts / counts.sum()).tolist())
    half_width = student_quantile(len(batches) - 1, confidence) * spread
    return {
        "over_groups": [max(0.0, value - half_width), value + half_width],
        "over_groups_confidence": confidence,
        "standard_error": spread,
        "batches": len(batches),
    }
