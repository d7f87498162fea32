"""Errors of a sequence of Householder QR steps: what experience shows, and the worst case."""

from __future__ import annotations

import math

import numpy as np

from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.rounding import U
from rankme_stream.spectra.spectrum import ConsistentSet, SingularValues

# Units of rounding relative to |Z|_F. Largest ever observed: 0.25 per row of the longest step, for rows that are all
# alike, where every dot product rounds one way, whatever the number of steps; 5 sqrt(steps) otherwise
# (docs/intervals.md).
_PER_ROW, _PER_ROOT_STEP = 2.0, 16.0


def step_error(rows: int, n_columns: int) -> float:
    """Return the worst-case relative error of a Householder step on ``rows`` new rows: n_columns gamma_{8 (rows + 8)}.

    Higham's theorem 19.4 with the constant counted: a reflector of length r = rows + 1 is off by 3 r + 34 units for the
    rounding of its vector and scalar, and its application by 2 r + 9, both below 8 (rows + 8). The count is for
    reflectors applied one at a time; LAPACK applies 64 together, for which theorem 19.5 gives the same form.
    """
    n = 8 * (rows + 8)
    return n_columns * n * U / (1.0 - n * U)


def growth(longest: int, steps: int) -> float:
    """Return the error after some steps, in units of rounding of |Z|_F, several times the largest ever seen.

    ``longest`` is the number of rows of the longest step.
    """
    return _PER_ROW * max(1, longest) + _PER_ROOT_STEP * math.sqrt(max(1, steps))


def grounds(longest: int, steps: int) -> str:
    """Return the evidence for ``growth`` in a sentence."""
    return (
        f"empirical: {math.ceil(growth(longest, steps)):,} u |Z|_F for {steps:,} QR steps, several times the growth "
        "ever seen"
    )


def singular_values_within(values: FloatArray, practical: float, worst: float, zeros: int) -> SingularValues:
    """Return singular values and the sets of those that differ by either error; the last ``zeros`` are exactly zero."""
    likely, certain = (
        ConsistentSet.around(values, error).with_zeros(zeros) for error in (practical, max(practical, worst))
    )
    return SingularValues(np.clip(values, likely.lower, likely.upper), likely, certain)
