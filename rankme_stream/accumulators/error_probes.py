"""Measured error of fast products: Gaussian probes multiplied by the product and by the rows themselves.

For a probe w ~ N(0, I), E|dG w|^2 = |dG|_F^2 for every dG, so the mean of |G^ w - sum Z_b'(Z_b w)|^2 over probes, with
the second term in float64, estimates the squared Frobenius error of G^ without a second Gram.

With every panel probed, |dG|_F exceeds 4 times the estimate of 8 probes with probability below 1.4e-4: the worst case
is a dG of rank one, where 8 est^2/|dG|_F^2 is chi-square with 8 degrees of freedom and P(chi-square_8 < 1/2) = 1.34e-4.

References
----------
H. Avron, S. Toledo, Randomized algorithms for estimating the trace of an implicit symmetric positive semi-definite
matrix, J. ACM 58 (2011); F. Roosta-Khorasani, U. Ascher, Found. Comput. Math. 15 (2015), for the tail bounds.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics import counter_rng
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.symmetric import Triangle

N_PROBES = 8
SAFETY = 4.0  # factor of the estimate
CONFIDENCE = 1.0 - 1.4e-4
_SEED = 0x52616E6B4D65
_OUTLYING = 4.0  # a panel whose trace is more than this many times the mean of those before it is always probed
_IMPOSSIBLE = 3.0  # times the worst case; a larger estimate is no chance: P(chi-square_8 > 9 x 8) < 1e-11


class ErrorProbes:
    """Sums of probe residuals over panels; merges by addition.

    Parameters
    ----------
    n_features
        Width D of the rows.
    seed
        Seed of the probes and of the choice of panels; the same for all that merge.

    Attributes
    ----------
    n_panels, n_probed, n_certain
        Number of panels, of panels probed, and of panels that were certain to be probed.

    Notes
    -----
    A probed panel costs 36 rows D + 18 D^2 flops; 8 x 9 (D+1) bytes a state.
    """

    def __init__(self, n_features: int, seed: int = _SEED) -> None:
        self.seed = seed
        self.n_panels = 0
        self.n_probed = 0
        self.n_certain = 0
        self._trace = 0.0
        self._residual: FloatArray = np.zeros((n_features + 1, N_PROBES + 1))
        self._spread: FloatArray = np.zeros(2)  # sums of |r|^2 / q: the total where panels err independently
        self._excess: FloatArray = np.zeros(2)  # sums of |r|^2 (1 - q) / q^2: the mean that sampling adds

    def observe(self, panel: Any, product: Triangle, start: int, *, share: float, worst_case: float) -> None:
        """Compare a panel's product with the panel.

        Parameters
        ----------
        panel
            Shape ``(rows, 1 + D)``, as given, on the device of the product; taken in float64.
        product
            Product of the panel in the fast arithmetic, of ``1 + D`` rows.
        share
            Probability with which the panel is probed, in (0, 1]. The first panel is always probed, and so is one
            whose trace is more than four times the mean of those before it; others of larger trace are probed more
            often. Each is weighted by the inverse of its probability.
        worst_case
            Bound on the Frobenius error of the product relative to its trace.

        Raises
        ------
        ArithmeticCheckError
            If the product is further off than the arithmetic can be.
        """
        trace = math.fsum(product.diagonal()[1:].tolist())
        is_certain = self.n_panels * trace > _OUTLYING * self._trace or self.n_panels == 0
        larger = self.n_panels * trace / self._trace if self._trace > 0.0 else 1.0
        self.n_panels += 1
        self._trace += trace
        probability = 1.0 if is_certain else min(1.0, share * max(1.0, larger))
        if probability < 1.0 and counter_rng.uniform(seed=self.seed, counter=start) >= probability:
            return
        self.n_probed += 1
        self.n_certain += probability == 1.0
        directions = _directions(product.n, self.seed, product.device)
        xp = product.device.xp
        wide = xp.astype(panel, xp.float64, copy=False)
        residual = product.device.download(product.times(directions) - wide.T @ (wide @ directions))
        # The last direction is the column of ones, so the last column of the residual is the error of the sums.
        squares = np.array([np.square(residual[1:, :-1]).sum() / N_PROBES, np.square(residual[1:, -1]).sum()])
        rows = panel.shape[0]
        smallest = rows * product.n * 2.0**-126
        if not math.sqrt(squares[0]) <= _IMPOSSIBLE * (worst_case * trace + smallest):
            raise ArithmeticCheckError(
                f"rows {start:,}-{start + rows - 1:,}: the product is {math.sqrt(squares[0]):.2g} off where the "
                f"arithmetic allows {worst_case * trace + smallest:.2g}: BLAS or the machine is at fault"
            )
        self._residual += residual / probability
        self._spread += squares / probability
        self._excess += squares * (1.0 - probability) / probability**2

    @property
    def is_complete(self) -> bool:
        """Whether every panel was certain to be probed; a random sample that holds all is still a sample."""
        return self.n_certain == self.n_panels

    def errors(self) -> tuple[float, float]:
        """Return estimates of the Frobenius error of the Gram and of the Euclidean error of the column sums.

        Their squares are unbiased when every panel was probed. Otherwise each is the larger of two estimates: from the
        weighted residuals less the mean that sampling adds, and for panels that err independently. It is no bound.
        """
        total = np.array([np.square(self._residual[1:, :-1]).sum() / N_PROBES, np.square(self._residual[1:, -1]).sum()])
        if not self.is_complete:
            total = np.maximum(total - self._excess, self._spread)
        gram, sums = np.sqrt(total).tolist()
        return gram, sums

    def merge(self, other: ErrorProbes) -> ErrorProbes:
        """Return the probes of both sets of panels; neither changes."""
        merged = ErrorProbes(len(self._residual) - 1, self.seed)
        for name, value in vars(self).items():
            if name != "seed":
                setattr(merged, name, value + getattr(other, name))
        return merged

    def to_arrays(self) -> dict[str, Array]:
        """Return the state as arrays."""
        return {f"probes{name}": np.array(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, n_features: int, arrays: dict[str, Array]) -> ErrorProbes:
        """Return the probes that ``to_arrays`` described."""
        probes = cls(n_features)
        for name, value in vars(probes).items():
            held = arrays[f"probes{name}"]
            setattr(probes, name, held.copy() if held.ndim else type(value)(held))
        return probes


@lru_cache(maxsize=2)  # 72 (D + 1) bytes each outlive a pass; drawn once, not once a segment
def _directions(width: int, seed: int, device: Device) -> Any:
    """Return eight probes that are zero for the column of ones, and one for it alone, on a device."""
    directions = np.zeros((width, N_PROBES + 1))
    directions[1:, :-1] = counter_rng.normal((width - 1, N_PROBES), seed=seed, counter=2**63 + width)
    directions[0, -1] = 1.0
    directions.flags.writeable = False
    return device.upload(directions)
