"""Second derivation for the contour: the equations that give the eigenvalues to expect for a planted population.

Rows sqrt(tau) L^(1/2) g, with g Gaussian, L the planted eigenvalues and tau squared lengths of mean 1, have a Gram G
with tr (G/n - z)^-1 / D = m(z) = mean 1/(-z (1 + d~ L)), where d = c mean L/(-z (1 + d~ L)),
d~ = mean tau/(-z (1 + d tau)), c = D/n (Paul and Silverstein 2009). They are solved here without the contour's
subordination function.
"""

from __future__ import annotations

import math

import numpy as np

from rankme_stream.spectra.contour import Path


def resolvent(z: np.ndarray, planted: np.ndarray, ratio: float, tau: np.ndarray) -> np.ndarray:
    """m(z) by Newton's method, continued along rays from infinity, where m(z) = -1/z."""
    d = None
    for distance in np.geomspace(1e4 * max(1.0, planted.max() / np.abs(z).min()), 1.0, 80):
        at = z * distance
        d = -ratio * planted.mean() / at if d is None else d
        for _ in range(60):
            r = 1.0 / (1.0 + np.multiply.outer(d, tau))
            other, d_other = -(tau * r).mean(axis=1) / at, (tau * tau * r * r).mean(axis=1) / at
            q = 1.0 / (-at[:, None] * (1.0 + np.multiply.outer(other, planted)))
            change = (d - ratio * (planted * q).mean(axis=1)) / (
                1.0 - ratio * (planted**2 * q**2).mean(axis=1) * at * d_other
            )
            d = d - change
            if np.all(np.abs(change) < 1e-15 * np.abs(d)):
                break
    return q.mean(axis=1)


def outside(planted: np.ndarray, ratio: float, tau: np.ndarray) -> tuple[float, float]:
    """Positive numbers left and right of all expected eigenvalues: extrema of the real inverse map."""

    def inverse_map(w: np.ndarray) -> np.ndarray:
        y = 1.0 - ratio * (planted / (planted - w[:, None])).mean(axis=1)
        low, high = np.full(w.size, -1.0 / tau.max()), np.full(w.size, 1e12)
        for _ in range(100):  # mean 1/(1 + tau e) falls from infinity to 0
            e = 0.5 * (low + high)
            above = (1.0 / (1.0 + e[:, None] * tau)).mean(axis=1) > y
            low, high = np.where(above, e, low), np.where(above, high, e)
        return np.where(y > 0.0, w * (tau / (1.0 + e[:, None] * tau)).mean(axis=1), np.nan)

    left = inverse_map(planted.min() * np.linspace(1e-3, 0.999, 400))
    right = inverse_map(planted.max() * (1.0 + np.geomspace(1e-3, 1e2, 400)))
    return 0.9 * float(np.nanmax(left)), 1.1 * float(np.nanmin(right))


def expected_path(planted: np.ndarray, ratio: float, tau: np.ndarray) -> Path:
    """Path round the eigenvalues to expect, its derivative by z from the Fourier series of m."""
    left, right = outside(planted, ratio, tau)
    middle, half, height = 0.5 * math.log(left * right), 0.5 * math.log(right / left), 2.6
    wide = math.hypot(half, height)
    n = 2 * math.ceil(17.0 / math.atanh(height / wide))
    angle = (np.arange(n) + 0.5) * math.pi / n
    z = np.exp(middle + wide * np.cos(angle) + 1j * height * np.sin(angle))
    speed = -wide * np.sin(angle) + 1j * height * np.cos(angle)
    zm = z * resolvent(z, planted, ratio, tau)
    whole = np.concatenate([zm, zm[::-1].conj()])
    order = np.fft.fftfreq(2 * n, 1.0 / (2 * n))
    order[n] = 0.0
    slope = np.fft.ifft(1j * order * np.fft.fft(whole))[:n] / speed
    return Path(z, speed * math.pi / n, zm, slope, planted.size)
