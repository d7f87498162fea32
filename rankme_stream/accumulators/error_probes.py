r"""Measured error of fast products: Gaussian probes multiplied by the product and by the rows themselves.

A pass has one matrix W of probes, shape (D, 8). With G^ the sum of all fast products, and dG its error, the residual

    dG W = G^ W - sum_b Z_b'(Z_b W)

costs no second Gram: the sum runs over every panel Z_b, in float64. Whatever dG is, E|dG w|^2 = |dG|_F^2 for a probe
w ~ N(0, I), so |dG W|_F / sqrt(8) estimates |dG|_F.

|dG|_F exceeds 4 times that estimate with probability P(chi-square_8 < 1/2) = 1.34e-4 at most: the worst case is a dG of
rank one, a b', where 8 estimate^2 / |dG|_F^2 = |W'b|^2 / |b|^2 is chi-square with 8 degrees of freedom.

**No feature is nearly unseen.** A row w_j of W, by which feature j is probed, is drawn again while |w_j|^2 < c, with

    c = min(1/2, 2 (12/D)^(1/4)).

That conditions W on an event A, that no row is below c; the rows are independent, so drawing the few again is the same
as drawing all of W again. With P(chi-square_8 < c) <= (c/2)^4/4!, P(A) >= 1 - D (c/2)^4/24 >= 1/2, and for every dG

    P(|dG|_F > 4 estimate | A) <= P(|dG|_F > 4 estimate) / P(A) <= 2.7e-4.

Up to 3,072 features c = 1/2, and then an error in one feature alone, e_j e_j', is never missed: 4 estimates are
4 sqrt(|w_j|^2/8) >= 1 times the error. An adversary who knows everything but the seed knows dG and not W, and the bound
holds for every dG.

The error of the column sums is a vector and is measured itself: sums of the fast products less sums in float64.

References
----------
H. Avron, S. Toledo, Randomized algorithms for estimating the trace of an implicit symmetric positive semi-definite
matrix, J. ACM 58 (2011); F. Roosta-Khorasani, U. Ascher, Found. Comput. Math. 15 (2015), for the tail bounds.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self, cast

import numpy as np

from rankme_stream.accumulators.row_totals import RowTotals
from rankme_stream.errors import UsageError
from rankme_stream.numerics import counter_rng
from rankme_stream.numerics.devices.card import Card
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST, Host
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import gamma
from rankme_stream.numerics.symmetric import Triangle

N_PROBES = 8
SAFETY = 4.0  # factor of the estimate
CONFIDENCE = 1.0 - 2.7e-4
_SEED, _PRODUCTS, _SUMS = "probes_seed", "probes_products", "probes_sums"  # in state files


class ErrorProbes:
    """Probes multiplied by panels: sums of Z_b'(Z_b W) and of the rows, in float64; merges by addition.

    Parameters
    ----------
    n_features
        Width D of the rows.
    seed
        Seed of the probes, the same for all that merge.

    Notes
    -----
    4 rows 8 D flops a panel; 8 x 9 (D + 1) bytes a state.
    """

    def __init__(self, n_features: int, seed: int, device: Device = HOST) -> None:
        self.seed, self.device = seed, device
        self._directions = _directions(n_features, seed, device)  # held, as work that is queued may outlive the cache
        self._products = device.zeros((n_features + 1, N_PROBES))
        self._sums = device.zeros((n_features + 1,))

    def observe(self, panel: Any, workspace: Workspace) -> None:
        """Add a panel, shape ``(rows, 1 + D)``, as it was given, on the device."""
        self.device.add_probed(panel, self._directions, self._products, self._sums, workspace)

    def observe_panels(self, slab: Any, panel_rows: int, workspace: Workspace) -> None:
        """Queue the addition of the panels of a slab on a card, as they were given, without waiting for it."""
        cast(Card, self.device).add_probed_panels(
            slab, panel_rows, self._directions, self._products, self._sums, workspace
        )

    def residual(self, product: Triangle, totals: RowTotals) -> Residual:
        """Return what the sum of fast products, of ``1 + D`` rows, is off by; 16 D^2 flops.

        Its own rounding is bounded, in float64: a product with W by gamma_n |Z|_F^2 |W|_F, n = D + rows of a panel,
        the additions included; the same for G^ W. About 1e-12 of the trace, where float32 errors are some 1e-8.
        """
        directions = self._directions
        found, wanted = self.device.download(product.times(directions)), self.device.download(self._products)
        errors = (found - wanted)[1:]
        sums = product.first_column()[1:] - self.device.download(self._sums)[1:]
        trace = 1.01 * math.fsum(product.diagonal()[1:].tolist())  # of the rows: float32 is not 1 % off
        norm = float(np.linalg.norm(self.device.download(directions))) / math.sqrt(N_PROBES)
        n_rows = round(product.corner)
        return Residual(
            errors, sums, gamma(2 * product.n + totals.chain + 8) * trace * norm,
            gamma(totals.chain + 2) * math.sqrt(n_rows * trace),
        )  # fmt: skip

    def merge(self, other: ErrorProbes) -> ErrorProbes:
        """Return the probes of both sets of panels; neither changes.

        Raises
        ------
        UsageError
            If their seeds differ.
        """
        if other.seed != self.seed:
            raise UsageError(
                f"float32 errors probed with seed {other.seed} cannot join those probed with {self.seed}: take parts "
                "of one pass"
            )
        return self._with(self.device, self._products + other._products, self._sums + other._sums)

    def on_host(self) -> ErrorProbes:
        """Return the same probes on the host."""
        return self._with(HOST, self.device.download(self._products), self.device.download(self._sums))

    def _with(self, device: Device, products: Any, sums: Any) -> ErrorProbes:
        made = copy(self)
        made.device, made._products, made._sums = device, products, sums
        made._directions = _directions(products.shape[0] - 1, self.seed, device)
        return made

    @staticmethod
    def array_shapes(n_features: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays of ``to_arrays``, the seed left out."""
        return {_PRODUCTS: (n_features + 1, N_PROBES), _SUMS: (n_features + 1,)}

    def to_arrays(self) -> dict[str, Array]:
        """Return the state as arrays of the host."""
        held = self.device.download(self._products), self.device.download(self._sums)
        return {_SEED: np.array(self.seed, np.uint64), _PRODUCTS: held[0].copy(), _SUMS: held[1].copy()}

    @classmethod
    def from_arrays(cls, n_features: int, arrays: dict[str, Array], device: Device = HOST) -> Self | None:
        """Return the probes that ``to_arrays`` described, on a device; None for states older than these probes."""
        if _SEED not in arrays:
            return None
        probes = cls(n_features, int(arrays[_SEED]), device)
        probes._products[...] = device.upload(arrays[_PRODUCTS])
        probes._sums[...] = device.upload(arrays[_SUMS])
        return probes


@dataclass(frozen=True)
class Residual:
    """Error of a sum of fast products times the probes, dG W, and error of its column sums; on the host.

    Attributes
    ----------
    errors, sums
        dG W, shape ``(D, 8)``, and the error of the sums, shape ``(D,)``.
    rounding, sums_rounding
        Bounds on the rounding error of these: of |dG W|_F / sqrt(8), and Euclidean of the sums.
    """

    errors: FloatArray
    sums: FloatArray
    rounding: float
    sums_rounding: float

    @property
    def estimate(self) -> float:
        """Estimate of the Frobenius error of the Gram; its square is unbiased."""
        return float(np.linalg.norm(self.errors)) / math.sqrt(N_PROBES)

    def bounds(self) -> tuple[float, float]:
        """Return bounds on the Frobenius error of the Gram, with probability CONFIDENCE, and on that of the sums."""
        return SAFETY * (self.estimate + self.rounding), float(np.linalg.norm(self.sums)) + self.sums_rounding

    def merge(self, other: Residual) -> Residual:
        """Return the residual of the sum of both."""
        return Residual(
            self.errors + other.errors, self.sums + other.sums, self.rounding + other.rounding,
            self.sums_rounding + other.sums_rounding,
        )  # fmt: skip


@lru_cache(maxsize=2)  # 64 (D + 1) bytes each outlive a pass; drawn once, not once a segment
def _directions(n_features: int, seed: int, device: Device) -> Any:
    """Return the probes on a device, shape ``(1 + D, 8)``: 0 for the column of ones, no other row below the floor."""
    least = min(N_PROBES / SAFETY**2, 2.0 * (12.0 / n_features) ** 0.25)
    directions = np.zeros((n_features + 1, N_PROBES), order="F")
    low, attempt = np.arange(1, n_features + 1), 0
    while low.size:
        drawn = counter_rng.normal((n_features, N_PROBES), seed=seed, counter=attempt)
        directions[low] = drawn[low - 1]
        low = low[np.square(directions[low]).sum(axis=1) < least]
        attempt += 1
    directions.flags.writeable = False
    held = device.upload(directions)
    if not isinstance(device, Host):
        cast(Card, device).finish()  # other passes use it in streams of their own
    return held
