"""What a randomized SVD multiplies the Gram matrix by: random signs, later the directions found, with probes beside."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

from rankme_stream.numerics import counter_rng
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.dtypes import FloatArray

PROBES = 64  # test vectors of every pass but the first that are drawn anew, and tell of what the others do not see
_TILE_FEATURES = 1024  # drawn at once
_TURN = 2**32  # places of random numbers between those of two passes
_making = threading.Lock()


class OrthonormalBasis:
    """Orthonormal directions that an earlier pass found, shape ``(r, D)``; two are equal only if they are one."""

    def __init__(self, rows: FloatArray) -> None:
        self.rows = np.ascontiguousarray(rows)
        self.rows.flags.writeable = False

    @cached_property
    def digest(self) -> str:
        """Hash of its bits."""
        return blake2b(self.rows.tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class TestVectors:
    """Test vectors of one pass, ``sketch_size`` of them.

    Attributes
    ----------
    pass_number
        Number of the pass, from 0.
    basis
        Of every pass but the first: all test vectors but ``PROBES``.
    """

    __test__ = False  # no test of pytest's

    n_features: int
    sketch_size: int
    seed: int
    pass_number: int = 0
    basis: OrthonormalBasis | None = None

    @property
    def n_directions(self) -> int:
        """How many of them are directions that an earlier pass found, or signs; the others are probes."""
        return self.sketch_size - (PROBES if self.pass_number else 0)

    @property
    def probe_scale(self) -> float:
        """What probes, standard normal numbers, are multiplied by: they are then about as long as a direction."""
        return float(2.0 ** -(self.n_features.bit_length() // 2))

    @property
    def key(self) -> tuple[int, int, int, int]:
        """What must agree for sketches to join, beside the basis."""
        return self.n_features, self.sketch_size, self.seed, self.pass_number

    def on(self, device: Device) -> Any:
        """Return them, shape ``(1 + sketch_size, 1 + D)``, made by one thread while others wait.

        The first row picks the column of ones.
        """
        with _making:
            return _made(self, device)


@lru_cache(maxsize=1)
def _made(asked: TestVectors, device: Device) -> Any:
    n_features, first = asked.n_features, 1 + asked.n_directions
    vectors = np.zeros((1 + asked.sketch_size, 1 + n_features))
    vectors[0, 0] = 1.0
    if asked.pass_number:
        assert asked.basis is not None  # a pass after the first is given one
        vectors[1:first, 1:] = asked.basis.rows
    for tile, start in enumerate(range(0, n_features, _TILE_FEATURES)):
        stop = min(start + _TILE_FEATURES, n_features)
        if asked.pass_number:
            shape, place = (_TILE_FEATURES, PROBES), asked.pass_number * _TURN + tile
            drawn = counter_rng.normal(shape, seed=asked.seed, place=place) * asked.probe_scale
            vectors[first:, 1 + start : 1 + stop] = drawn[: stop - start].T
        else:
            drawn = counter_rng.signs((_TILE_FEATURES, asked.sketch_size), seed=asked.seed, place=tile)
            vectors[1:, 1 + start : 1 + stop] = drawn[: stop - start].T
    vectors.flags.writeable = False
    return device.upload(vectors)
