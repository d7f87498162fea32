"""The method of the Gram matrix: its accumulators, and what they cost."""

from __future__ import annotations

from collections.abc import Callable

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.accumulators.error_probes import N_PROBES, ErrorProbes
from rankme_stream.accumulators.float32_gram import Float32GramAccumulator
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.method import ExactMethod, Precision, Size
from rankme_stream.errors import argument
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.symmetric import triangle_bytes

_SHARED_FROM = 1536  # features; from here on threads share one Gram, whose triangle has ten blocks or more


class GramMethod(ExactMethod):
    """The Gram matrix, multiplied in float64 or float32."""

    name = "gram"
    precisions = ("float32", "float64")
    slowdown = 1.0
    better = "tsqr"
    remedy = f"try {argument('method', 'auto')}"

    def accumulator(self, precision: Precision) -> Callable[..., Accumulator]:
        """Return the class that accumulates in that precision."""
        return Float32GramAccumulator if precision == "float32" else GramAccumulator

    def array_shapes(self, size: Size, precision: Precision) -> dict[str, tuple[int | range, ...]]:
        """Return the shapes of the triangle, the mask of features and the probes."""
        shapes: dict[str, tuple[int | range, ...]] = {
            "gram": (size.width * (size.width + 1) // 2,),
            "nonzero": (size.n_features,),
        }
        return shapes | (ErrorProbes.array_shapes(size.n_features) if precision == "float32" else {})

    def flops(self, n_rows: int, size: Size) -> int:
        """Return N D^2: one triangle."""
        return n_rows * size.n_features**2

    def state_bytes(self, size: Size) -> int:
        """Return the bytes of a triangle in blocks."""
        return triangle_bytes(size.width)

    def scratch_bytes(self, size: Size, precision: Precision, panel_rows: int) -> int:
        """Return the bytes of one block's product; in float32, of the narrowed panel, its product and the probes.

        Probed are slices of at most 2^15 values, or 128 rows, in float64, by 8 vectors as long as a row.
        """
        product = 8 * HOST.block_columns**2
        if precision == "float64":
            return product
        probed = 8 * max(2**15, 128 * size.width) + 8 * 8 * N_PROBES * size.width
        return product + triangle_bytes(size.width, 4) + 4 * panel_rows * size.width + probed

    def card_scratch_bytes(self, size: Size, panel_rows: int) -> int:
        """Return the bytes of a product and of the sum that it is added to."""
        return 2 * size.square_bytes

    def shares_update(self, n_features: int, precision: Precision) -> bool:
        """Return whether all threads share one triangle: if it has ten blocks or more."""
        return precision == "float64" and n_features >= _SHARED_FROM

    def draws_probes(self, precision: Precision) -> bool:
        """Return whether the error of the products is measured: in float32."""
        return precision == "float32"

    def multiplies_stored_rows(self, precision: Precision) -> bool:
        """Return whether rows may be multiplied in fewer than 64 bits: in float32."""
        return precision == "float32"
