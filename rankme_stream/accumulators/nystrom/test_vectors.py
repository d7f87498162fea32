"""What a randomized SVD multiplies the Gram matrix by: random signs, later the directions found, with probes beside."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from rankme_stream.numerics import counter_rng
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.dtypes import FloatArray

PROBES = 64  # test vectors of every pass but the first that are drawn anew, and tell of what the others do not see
_TILE_FEATURES = 1024  # drawn at once
_TURN = 2**32  # places of random numbers between those of two passes


class OrthonormalBasis:
    """Orthonormal directions that an earlier pass found, shape ``(r, D)``; two are equal only if they are one."""

    def __init__(self, rows: FloatArray) -> None:
        self.rows = np.ascontiguousarray(rows)
        self.rows.flags.writeable = False

    @cached_property
    def digest(self) -> str:
        """Hash of its bits."""
        return blake2b(self.rows.tobytes(), digest_size=16).hexdigest()


class _Matrix:
    """Array of a device that can be referred to weakly; arrays of some libraries cannot."""

    def __init__(self, values: Any) -> None:
        self.values = values


# One matrix for all accumulators of a pass, on any thread: gone with the last of them.
_making = threading.Lock()
_in_use: WeakValueDictionary[tuple[Any, ...], _Matrix] = WeakValueDictionary()


@dataclass(frozen=True)
class TestVectors:
    """Test vectors of one pass, ``sketch_size`` of them.

    Their matrix is made when it is first asked for, shared by all that are equal, and let go with the last of these.

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
    _matrices: dict[Device, _Matrix] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy without the matrix, which can be made again."""
        return TestVectors, (*self.key, self.basis)

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
            if device not in self._matrices:
                key = (*self.key, self.basis, device)
                matrix = _in_use.get(key)
                if matrix is None:
                    matrix = _in_use[key] = _Matrix(device.upload(self._drawn()))
                self._matrices[device] = matrix
            return self._matrices[device].values

    def _drawn(self) -> FloatArray:
        n_features, first = self.n_features, 1 + self.n_directions
        vectors = np.zeros((1 + self.sketch_size, 1 + n_features))
        vectors[0, 0] = 1.0
        if self.pass_number:
            assert self.basis is not None  # a pass after the first is given one
            vectors[1:first, 1:] = self.basis.rows
        for tile, start in enumerate(range(0, n_features, _TILE_FEATURES)):
            stop = min(start + _TILE_FEATURES, n_features)
            if self.pass_number:
                shape, place = (_TILE_FEATURES, PROBES), self.pass_number * _TURN + tile
                drawn = counter_rng.normal(shape, seed=self.seed, place=place) * self.probe_scale
                vectors[first:, 1 + start : 1 + stop] = drawn[: stop - start].T
            else:
                drawn = counter_rng.signs((_TILE_FEATURES, self.sketch_size), seed=self.seed, place=tile)
                vectors[1:, 1 + start : 1 + stop] = drawn[: stop - start].T
        vectors.flags.writeable = False
        return vectors
