"""Floors from images of test vectors that are off by as much as they may be, and how little rounding costs them."""

import numpy as np
import pytest

from rankme_stream.accumulators.nystrom import eigenvalue_floors
from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics.devices.host import HOST

SPECTRA = {  # eigenvalues
    "exponential": lambda k: np.exp(-k / 3),
    "flat": np.ones_like,
    "k^-1": lambda k: 1 / k,
    "few": lambda k: np.where(k <= 5, 1.0, 0.0),
    "steps": lambda k: 10.0 ** (-4.0 * (k // 8)),
}


def gram(name, n_features=96, seed=0):
    """Return a Gram matrix of energy 1, the eigenvalues that it was made of, and test vectors."""
    generator = np.random.default_rng([seed, 3])
    values = SPECTRA[name](np.arange(1.0, n_features + 1))
    values /= values.sum()
    turn = np.linalg.qr(generator.standard_normal((n_features, n_features)))[0]
    vectors = generator.choice([-1.0, 1.0], (24, n_features))
    return (turn * values) @ turn.T, values, vectors


def least_left(matrix, vectors):
    """Return what exact arithmetic leaves of the energy."""
    values, turn = np.linalg.eigh(matrix)
    root = turn * np.sqrt(np.maximum(values, 0.0))
    basis = np.linalg.qr((vectors @ root).T)[0]
    return float(np.trace(matrix) - np.linalg.norm(root @ basis) ** 2)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("size", [0.0, 1e-13, 1e-9, 1e-5])
def test_floors_hold_whatever_the_images_are_off_by(name, size):
    for seed in range(5):
        matrix, values, vectors = gram(name, seed=seed)
        n_features = values.size
        generator = np.random.default_rng([seed, 4])
        drawn = generator.standard_normal(vectors.shape)
        pushes = [vectors, -vectors, drawn, (drawn @ matrix), np.outer(drawn[:, 0], np.linalg.eigh(matrix)[1][:, -1])]
        frame = eigenvalue_floors.Frame.of(vectors, HOST)
        for push in pushes:
            off = size * push / np.linalg.norm(push)
            images = vectors @ matrix + off
            try:
                found = eigenvalue_floors.floors(
                    images, frame, HOST, energy=1.0, entries=size + 1e-15 * n_features, rows=0.0
                )
            except ArithmeticCheckError:  # further from symmetric than the bound allows
                pytest.fail("an allowed error was taken for a fault")
            assert found.size <= len(vectors)
            assert np.all(found <= values[: found.size] + 1e-14)  # the eigenvalues of what was made of them
            assert found.sum() <= 1.0


@pytest.mark.parametrize("name", SPECTRA)
def test_rounding_lowers_the_floors_little(name):
    matrix, _, vectors = gram(name)
    frame = eigenvalue_floors.Frame.of(vectors, HOST)
    found = eigenvalue_floors.floors(vectors @ matrix, frame, HOST, energy=1.0, entries=1e-13, rows=0.0)
    left, ideal = 1.0 - found.sum(), least_left(matrix, vectors)
    assert left <= 1.1 * ideal + 2e-9
    if name == "exponential":
        assert ideal < 1e-2 and found.size == len(vectors)  # directions down to 1e-4 of the first are all kept


def test_images_of_no_gram_matrix_are_a_fault():
    matrix, _, vectors = gram("k^-1")
    matrix[3, 5] += 1e-6
    frame = eigenvalue_floors.Frame.of(vectors, HOST)
    with pytest.raises(ArithmeticCheckError, match="from symmetric"):
        eigenvalue_floors.floors(vectors @ matrix, frame, HOST, energy=1.0, entries=1e-13, rows=0.0)


def test_images_of_rounding_alone_give_floors_of_zero():
    _, _, vectors = gram("flat")
    images = 1e-9 * np.random.default_rng(0).standard_normal(vectors.shape)
    frame = eigenvalue_floors.Frame.of(vectors, HOST)
    found = eigenvalue_floors.floors(images, frame, HOST, energy=1.0, entries=1e-6, rows=0.0)
    assert found.sum() == 0.0
