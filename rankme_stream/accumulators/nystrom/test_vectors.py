"""Test vectors of a randomized SVD: random signs in the first pass; directions found, and probes, in later ones."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from rankme_stream.numerics import counter_rng
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.dtypes import FloatArray

PROBES = 64  # random test vectors of every pass but the first, which bound the part that the directions miss
_TILE_FEATURES = 1024  # features for which random numbers are drawn at once
_PASS_STRIDE = 2**32  # between the counters of random numbers of two passes


class OrthonormalBasis:
    """Orthonormal directions that an earlier pass found, shape ``(r, D)``; equal only to itself."""

    def __init__(self, rows: FloatArray) -> None:
        self.rows = np.ascontiguousarray(rows)
        self.rows.flags.writeable = False

    @cached_property
    def digest(self) -> str:
        """Hash of the bits."""
        return blake2b(self.rows.tobytes(), digest_size=16).hexdigest()


class LaterPass(NamedTuple):
    """A pass after the first.

    Attributes
    ----------
    pass_number
        Number of the pass, counted from 0.
    basis
        Directions that the pass before found; None until they are read, as the state of a sketch does not hold them.
    """

    pass_number: int
    basis: OrthonormalBasis | None


class _Matrix:
    """Array of a device that can be referred to weakly; arrays of some libraries cannot."""

    def __init__(self, values: Any) -> None:
        self.values = values


# One matrix serves all accumulators of a pass, on any thread, and is freed with the last of them.
_making = threading.Lock()
_in_use: WeakValueDictionary[tuple[Any, ...], _Matrix] = WeakValueDictionary()


@dataclass(frozen=True)
class TestVectors:
    """Test vectors of one pass, ``sketch_size`` of them.

    The matrix is made at first use, shared by all instances that are equal, and freed with the last of them.

    Attributes
    ----------
    pass_number
        Number of the pass, counted from 0.
    basis
        In a later pass, all test vectors but ``PROBES``; None in the first pass.
    """

    __test__ = False  # pytest would collect it as tests

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
        """Number of test vectors that are directions of an earlier pass, or signs; the others are probes."""
        return self.sketch_size - (PROBES if self.pass_number else 0)

    @property
    def probe_scale(self) -> float:
        """Factor of the probes, which are standard normal numbers, that makes them about as long as a direction."""
        return float(2.0 ** -(self.n_features.bit_length() // 2))

    @property
    def key(self) -> tuple[int, int, int, int]:
        """Numbers that must agree for two sketches to merge; their bases must agree as well."""
        return self.n_features, self.sketch_size, self.seed, self.pass_number

    def on(self, device: Device) -> Any:
        """Return the matrix, shape ``(1 + sketch_size, 1 + D)``, made by one thread while others wait.

        The first row selects the column of ones.
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
                shape, counter = (_TILE_FEATURES, PROBES), self.pass_number * _PASS_STRIDE + tile
                drawn = counter_rng.normal(shape, seed=self.seed, counter=counter) * self.probe_scale
                vectors[first:, 1 + start : 1 + stop] = drawn[: stop - start].T
            else:
                drawn = counter_rng.signs((_TILE_FEATURES, self.sketch_size), seed=self.seed, counter=tile)
                vectors[1:, 1 + start : 1 + stop] = drawn[: stop - start].T
        vectors.flags.writeable = False
        return vectors
