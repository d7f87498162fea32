"""The model of tensor cores is off by as much as it says, and exact where sums of whole numbers are."""

import numpy as np
import pytest

from rankme_stream.numerics.dtypes import named_type
from tests.tensor_core_model import tensor_core_product


def _positive(kind: str, shape: tuple[int, int]) -> np.ndarray:
    """Return magnitudes of normal numbers that a 16-bit type holds, as float64."""
    values = np.abs(np.random.default_rng(0).standard_normal(shape))
    if kind == "float16":
        return values.astype(np.float16).astype(np.float64)
    halves = (values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    exact = np.empty(shape)
    named_type(kind).widen(halves, exact, np.empty(shape, np.int32))
    return exact


@pytest.mark.parametrize(("kind", "low", "high"), [("float16", -4.5e-6, -3e-6), ("bfloat16", -2.2e-6, -1.3e-6)])
def test_sums_of_positive_numbers_are_too_small(kind: str, low: float, high: float) -> None:
    panel = _positive(kind, (1024, 16))
    true = panel.T @ panel
    error = tensor_core_product(panel) / true - 1
    assert low < error.mean() < high and error.max() < 0
    plain = panel.astype(np.float32)
    assert abs((plain.T @ plain / true - 1).mean()) < 2e-7  # float32 rounds to both sides


def test_whole_numbers_are_exact_and_the_arithmetic_can_be_chosen() -> None:
    assert (tensor_core_product(np.ones((2049, 3), np.float16)) == 2049).all()
    signs = np.sign(np.random.default_rng(1).standard_normal((500, 5)))
    assert (tensor_core_product(signs.astype(np.float16)) == signs.T @ signs).all()
    panel = _positive("float16", (256, 8))
    true, errors = panel.T @ panel, []
    for k_group, bits in ((8, 23), (16, 24), (256, 40)):
        errors.append(abs(tensor_core_product(panel, k_group=k_group, bits=bits) / true - 1).max())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 2**-23  # one cut to float32
