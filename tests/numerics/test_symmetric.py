"""A triangle in blocks is the product that it stands for, at every width around the blocks' own."""

from __future__ import annotations

import numpy as np
import pytest

from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.symmetric import Triangle, triangle_bytes

WIDEST_BLOCK = HOST.block_columns

WIDTHS = [1, 2, 7, WIDEST_BLOCK - 1, WIDEST_BLOCK, WIDEST_BLOCK + 1, 2 * WIDEST_BLOCK + 3]


def integers(n_rows: int, n: int) -> np.ndarray:
    """Small integers, whose products float32 and float64 sum exactly in any order."""
    return np.random.default_rng(n).integers(-4, 5, (n_rows, n)).astype(np.float64)


def filled(panel: np.ndarray) -> Triangle:
    triangle, workspace = Triangle(panel.shape[1]), Workspace()
    for index in triangle.block_indices:
        triangle.add_product(index, panel, workspace)
    return triangle


@pytest.mark.parametrize("n", WIDTHS)
def test_the_sum_of_products_is_that_of_a_dense_matrix(n):
    panel, other = integers(20, n), integers(9, n)
    triangle = filled(panel)
    for index in triangle.block_indices:
        triangle.add_product(index, other, Workspace())
    dense = panel.T @ panel + other.T @ other
    assert np.array_equal(np.tril(triangle.lower()), np.tril(dense))
    assert np.array_equal(triangle.diagonal(), np.diagonal(dense))
    assert np.array_equal(triangle.times(other.T), dense @ other.T)
    assert np.array_equal((filled(panel) + filled(other)).lower(), triangle.lower())


@pytest.mark.parametrize("n", WIDTHS)
def test_a_float32_triangle_is_overwritten_and_added(n):
    panel = integers(20, n)
    product = Triangle(n, np.float32)
    for _ in range(2):
        for index in product.block_indices:
            product.set_product(index, panel.astype(np.float32))
    total = filled(panel)
    total.add(product)
    assert np.array_equal(np.tril(total.lower()), np.tril(2 * panel.T @ panel))
    assert product.lower().dtype == np.float32


@pytest.mark.parametrize("n", WIDTHS)
def test_packing_and_prefixes_keep_every_entry(n):
    triangle = filled(integers(20, n))
    packed = triangle.to_array()
    assert packed.size == n * (n + 1) // 2
    assert np.array_equal(Triangle.from_array(packed).lower(), triangle.lower())
    first = triangle.prefix((n + 1) // 2)
    assert np.array_equal(np.tril(first.lower()), np.tril(triangle.lower())[: first.n, : first.n])


@pytest.mark.parametrize("n", [*WIDTHS, 4097])
def test_about_half_of_the_square_is_stored(n):
    triangle = Triangle(n)
    stored = sum(triangle._blocks[index].nbytes for index in triangle.block_indices)
    assert triangle_bytes(n) == stored <= 8 * n * (n + WIDEST_BLOCK + 1) / 2 + 8
    assert triangle_bytes(n, 4) == stored / 2
