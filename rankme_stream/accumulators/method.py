"""The interface of methods: accumulator, grid, flops and bytes of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.accumulators.sketch_spectrum import gathered_rows
from rankme_stream.errors import UsageError, argument

MethodName = Literal["gram", "tsqr", "row-gram", "row-qr", "rsvd", "frequent-directions", "row-sketch"]
Precision = Literal["float64", "float32"]

PANEL_ROWS = 1024  # rows of one product: longer panels are no faster and widen the certified interval
_PANEL_VALUES = 2**24  # in a panel of a sketch, whose rows may be wide
_SEGMENT_FLOPS = 2**32  # about a tenth of a second of one core: a merge is then below 2 % of a segment
SMALLEST_SEGMENT_ROWS, _LARGEST_SEGMENT_ROWS = 2**13, 2**16
_DEFAULT_RANK = 256  # test vectors or directions of a sketch


class Arithmetic(NamedTuple):
    """A method and the precision of its products."""

    method: MethodName
    precision: Precision


class Size(NamedTuple):
    """Width D of the rows, and the size of a sketch: test vectors, directions or rows; 0 where there is no sketch.

    ``n_rows`` is the number of rows of the pass, for methods that keep them.
    """

    n_features: int
    sketch_size: int = 0
    n_rows: int = 0

    @property
    def width(self) -> int:
        """Columns of a panel: the ones and the features."""
        return self.n_features + 1

    @property
    def square_bytes(self) -> int:
        """Bytes of a matrix of ``width`` rows and columns."""
        return 8 * self.width**2


class Method(ABC):
    """One way to find the spectrum of rows: its accumulator, and what it costs.

    A new method is a module with an accumulator and a subclass of this, and a line in ``methods.METHODS``. Bytes are
    those of the host unless the name says card.
    """

    name: ClassVar[MethodName]
    precisions: ClassVar[tuple[Precision, ...]] = ("float64",)
    """Cheapest first."""
    is_sketch: ClassVar[bool] = True
    is_offered: ClassVar[bool] = True
    """Whether users may ask for it by name."""
    uses_qr: ClassVar[bool] = False
    """Whether it rests on QR decompositions, which are tried before a pass as well as products."""
    keeps_rows: ClassVar[bool] = False
    """Whether accumulators hold the rows themselves: then all of them together are as large as that of the pass."""
    takes_passes: ClassVar[bool] = False
    """Whether a later pass over all rows sharpens the result."""
    uses_seed: ClassVar[bool] = False
    slowdown: ClassVar[float] = 2.0
    """Seconds that a flop takes, relative to one of the Gram matrix."""
    better: ClassVar[MethodName | None] = None
    """Exact method that reads the rows again if the interval is too wide."""
    remedy: ClassVar[str]
    """Advice for an interval wider than the tolerance."""

    @abstractmethod
    def accumulator(self, precision: Precision) -> Callable[..., Accumulator]:
        """Return the class that accumulates in that precision."""

    @abstractmethod
    def sketch_size(self, rank: int | None, oversampling: int, n_features: int) -> int:
        """Return the size of the sketch of that rank; 0 if the method is no sketch.

        Raises
        ------
        UsageError
            If the rank does not suit the width.
        """

    def check_rows(self, n_rows: int, sketch_size: int) -> None:  # noqa: B027 - most methods take any number of rows
        """Raise ``UsageError`` if no interval could be stated for so few rows."""

    @abstractmethod
    def flops(self, n_rows: int, size: Size) -> int:
        """Return the floating-point operations of a pass."""

    @abstractmethod
    def packed_bytes(self, size: Size) -> int:
        """Return the bytes of an accumulator in a file."""

    @abstractmethod
    def array_shapes(self, size: Size, precision: Precision) -> dict[str, tuple[int | range, ...]]:
        """Return the shapes of the arrays in a file, single numbers left out; a range stands for what may vary."""

    def state_bytes(self, size: Size) -> int:
        """Return the bytes of an accumulator in memory."""
        return self.packed_bytes(size)

    def merging_bytes(self, size: Size) -> int:
        """Return the bytes that merging two accumulators takes beside them."""
        return self.state_bytes(size)

    def shared_bytes(self, size: Size) -> int:
        """Return the bytes that all accumulators of a pass share."""
        return 0

    @abstractmethod
    def scratch_bytes(self, size: Size, precision: Precision, panel_rows: int) -> int:
        """Return the bytes that a thread takes beside panels."""

    @abstractmethod
    def solving_bytes(self, size: Size, *, normalize: bool) -> int:
        """Return the bytes that the spectrum of a whole pass takes."""

    @abstractmethod
    def card_scratch_bytes(self, size: Size, panel_rows: int) -> int:
        """Return the bytes that a thread takes beside panels on a card, where matrices are whole."""

    @abstractmethod
    def panel_rows(self, n_features: int) -> int:
        """Return the rows of a panel."""

    @abstractmethod
    def segment_rows(self, size: Size) -> int:
        """Return the rows of a segment in float64, a power of two."""

    def shares_update(self, n_features: int, precision: Precision) -> bool:
        """Return whether all threads share one accumulator, in place of one each."""
        return False

    def draws_probes(self, precision: Precision) -> bool:
        """Return whether the error of the products is measured with random probes."""
        return False

    def multiplies_stored_rows(self, precision: Precision) -> bool:
        """Return whether rows may be multiplied as they are stored, in fewer than 64 bits."""
        return False


class ExactMethod(Method):
    """A method that keeps a triangle of D + 1 columns, and loses nothing but rounding."""

    is_sketch = False

    def sketch_size(self, rank: int | None, oversampling: int, n_features: int) -> int:
        """Return 0: there is no sketch."""
        return 0

    def packed_bytes(self, size: Size) -> int:
        """Return the bytes of a triangle, entry by entry."""
        return 4 * size.width * (size.width + 1)

    def solving_bytes(self, size: Size, *, normalize: bool) -> int:
        """Return the bytes of whole matrices, raw and centred at once."""
        return (6 + normalize) * size.square_bytes

    def panel_rows(self, n_features: int) -> int:
        """Return the rows of a panel."""
        return PANEL_ROWS

    def segment_rows(self, size: Size) -> int:
        """Return the rows of a segment of some 2^32 flops (N D^2)."""
        return power_of_two_above(_clamp_segment_rows(_SEGMENT_FLOPS // max(1, size.n_features**2)))


class SketchMethod(Method):
    """A method that keeps less than a triangle, and bounds the error of that."""

    remedy = (
        f"raise {argument('rank')}, or take {argument('method', 'gram')}, which is exact; "
        f"or pass a larger {argument('tolerance')}"
    )

    def card_scratch_bytes(self, size: Size, panel_rows: int) -> int:
        """Return the bytes of two panels and a sketch."""
        return 2 * 8 * panel_rows * size.width + self.state_bytes(size)

    def panel_rows(self, n_features: int) -> int:
        """Return the rows of a panel, fewer where rows are very wide."""
        return min(PANEL_ROWS, power_of_two_below(max(1, _PANEL_VALUES // n_features)))


class LowRankMethod(SketchMethod):
    """A sketch by ``rank`` directions, at most half the number of features."""

    segment_flops: ClassVar[int]
    """Flops of a segment, counted as 4 N D r: a sketch is as large as many rows, so segments are long."""

    def sketch_size(self, rank: int | None, oversampling: int, n_features: int) -> int:
        """Return rank and oversampling together; by default 256, or less for few features.

        Raises
        ------
        UsageError
            If they are more than half of the features: the Gram matrix costs less then, and is exact.
        """
        most = n_features // 2 - oversampling
        if rank is None:
            rank = min(_DEFAULT_RANK, most)
        if not 1 <= rank <= most:
            beside = f" and oversampling {oversampling}" if oversampling else ""
            raise UsageError(
                f"a sketch of rank {rank}{beside} takes more than half of the {n_features:,} features, or nothing: the "
                f"Gram matrix ({argument('method', 'gram')}) costs less then, and is exact"
            )
        return rank + oversampling

    def solving_bytes(self, size: Size, *, normalize: bool) -> int:
        """Return the bytes of copies of the sketch and of square matrices of twice its size, or of 64 more."""
        return (6 + normalize) * self.state_bytes(size) + 8 * 8 * gathered_rows(size.sketch_size) ** 2

    def segment_rows(self, size: Size) -> int:
        """Return the rows of a segment of ``segment_flops``."""
        rows = self.segment_flops // (4 * size.n_features * size.sketch_size)
        return power_of_two_below(_clamp_segment_rows(rows))


def power_of_two_below(number: int) -> int:
    """Return the largest power of two that is not above a number."""
    return 1 << (number.bit_length() - 1)


def power_of_two_above(number: int) -> int:
    """Return the smallest power of two that is not below a number."""
    return 1 << (number - 1).bit_length()


def _clamp_segment_rows(rows: int) -> int:
    """Return a number of rows within the limits of a segment: 2^13 to 2^16."""
    return min(_LARGEST_SEGMENT_ROWS, max(SMALLEST_SEGMENT_ROWS, rows))
