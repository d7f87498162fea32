"""Every arithmetic by name: its accumulator, grid, flops and bytes."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from rankme_stream.accumulators.frequent_directions import FrequentDirectionsAccumulator
from rankme_stream.accumulators.gram import Float32GramAccumulator, GramAccumulator
from rankme_stream.accumulators.nystrom.accumulator import NystromAccumulator
from rankme_stream.accumulators.row_sketch.accumulator import RowSketchAccumulator
from rankme_stream.accumulators.row_sketch.folding import ROWS_A_SKETCH_ROW
from rankme_stream.accumulators.sketch_spectrum import gathered_rows
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.errors import UsageError
from rankme_stream.numerics.symmetric import triangle_bytes

Method = Literal["gram", "tsqr", "rsvd", "frequent-directions", "row-sketch"]


Precision = Literal["float64", "float32"]


SKETCHES = ("rsvd", "frequent-directions", "row-sketch")


_DEFAULT_RANK = 256


_ROWS_A_FEATURE, _FEWEST_ROWS = 8, 256  # of a row sketch: its interval is proved from there on


def sketch_size_for(method: str, rank: int | None, oversampling: int, n_features: int) -> int:
    """Return how many test vectors, directions or rows a sketch takes; 0 where the method is none.

    Raises
    ------
    UsageError
        If there are more than half as many as features: the Gram matrix costs less then, and is exact. If a row sketch
        has so few rows that its interval would not hold.
    """
    if method not in SKETCHES:
        if rank is not None:
            raise UsageError(f"rank is the size of a sketch: pass method {', '.join(SKETCHES)} as well")
        return 0
    if method == "row-sketch":
        fewest = max(_ROWS_A_FEATURE * n_features, _FEWEST_ROWS)
        if rank is not None and rank < fewest:
            raise UsageError(
                f"a row sketch of {rank:,} rows tells too little of {n_features:,} features for an interval: --rank "
                f"{fewest} at least, or leave it out"
            )
        return -(-(rank or fewest) // 4) * 4
    extra = oversampling if method == "rsvd" else 0
    most = n_features // 2 - extra
    if rank is None:
        rank = min(_DEFAULT_RANK, most)
    if not 1 <= rank <= most or oversampling < 0:
        beside = f" and oversampling {extra}" if extra else ""
        raise UsageError(
            f"a sketch of rank {rank}{beside} takes more than half of the {n_features:,} features, or nothing: the "
            "Gram matrix (--method gram) costs less then, and is exact"
        )
    return rank + extra


def check_rows(method: str, n_rows: int, sketch_size: int) -> None:
    """Refuse a row sketch of so few rows that no interval would be stated.

    Raises
    ------
    UsageError
        The text says how many it takes.
    """
    if method == "row-sketch" and n_rows < ROWS_A_SKETCH_ROW * sketch_size:
        raise UsageError(
            f"{n_rows:,} rows are too few for a row sketch of {sketch_size:,}, which takes "
            f"{ROWS_A_SKETCH_ROW * sketch_size:,} (4 a row of it): the Gram matrix (--method gram) is exact"
        )


def state_bytes(method: Method, n_features: int, sketch_size: int) -> int:
    """Bytes of an accumulator on the host."""
    if method == "gram":
        return triangle_bytes(n_features + 1)
    return packed_bytes(method, n_features, sketch_size) if sketch_size else 8 * (n_features + 1) ** 2


def packed_bytes(method: Method, n_features: int, sketch_size: int) -> int:
    """Bytes of an accumulator in a file: a triangle, or a sketch."""
    if not sketch_size:
        return 4 * (n_features + 1) * (n_features + 2)
    rows = {"rsvd": 1 + sketch_size, "row-sketch": sketch_size}.get(method, gathered_rows(sketch_size))
    return 8 * ((n_features + 1) * rows + (sketch_size + 2 * n_features) * (method == "row-sketch"))


class Arithmetic(NamedTuple):
    """A method and the precision of its products."""

    method: Method
    precision: Precision


ACCUMULATORS: dict[Arithmetic, Any] = {  # cheapest first
    Arithmetic("gram", "float32"): Float32GramAccumulator,
    Arithmetic("gram", "float64"): GramAccumulator,
    Arithmetic("tsqr", "float64"): TsqrAccumulator,
    Arithmetic("rsvd", "float64"): NystromAccumulator,
    Arithmetic("frequent-directions", "float64"): FrequentDirectionsAccumulator,
    Arithmetic("row-sketch", "float64"): RowSketchAccumulator,
}


def _flops(method: Method, n_rows: int, n_features: int, sketch_size: int) -> int:
    if sketch_size:
        if method == "rsvd":
            return 4 * n_rows * n_features * sketch_size
        if method == "row-sketch":
            return 6 * n_rows * n_features  # sign, addition, length, sum
        gather = gathered_rows(sketch_size)
        return n_rows * ((gather + 2 * sketch_size) * gather * n_features + 9 * gather**3) // (gather - sketch_size)
    return (1 if method == "gram" else 2) * n_rows * n_features**2
