"""Rows that are copies of one another, or nearly so, in different units of a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rankme_stream.spectra.held_out_units import MOST_COPIES, IntArray, RotatedRows, Unit, too_many_copies

ALIKE = 0.7  # whitened correlation above which rows are left out together
CLOSE = 0.9  # above which a row counts as a copy
_SLAB = 2**20  # numbers held at a time


@dataclass(frozen=True)
class Copies:
    """Units with the copies of their rows in other units.

    Attributes
    ----------
    units
        One for each unit, in ascending order of its number.
    pairs_per_row
        Pairs of alike rows of different units, over all rows.
    close_pairs_per_row
        Those among them that are copies in all but small noise.
    """

    units: list[Unit]
    pairs_per_row: float
    close_pairs_per_row: float


def find_copies(rotated: RotatedRows, unit: IntArray) -> Copies:
    """Return the units of some rows, and which rows of other units are like theirs.

    Rows are compared in the metric in which the Gram is the identity: there rows that are independent are almost
    orthogonal, whatever their mean and spectrum.

    Parameters
    ----------
    unit
        Shape ``(r,)``: number of the unit of each row.

    Raises
    ------
    NoEstimateError
        If a row is like more than 64 others.

    Notes
    -----
    2 r^2 m operations, and slabs of 8 MB beside a matrix of shape ``(r, m)``.
    """
    white = rotated.rows / np.sqrt(rotated.values)
    lengths = np.sqrt(np.einsum("ij,ij->i", white, white))
    white /= np.where(lengths > 0.0, lengths, 1.0)[:, None]
    number = np.unique(unit, return_inverse=True)[1]
    n_rows, n_units = len(unit), int(number.max()) + 1
    slab = max(1, _SLAB // n_rows)
    found: list[IntArray] = []
    close = 0
    for start in range(0, n_rows, slab):
        likeness = np.abs(white[start : start + slab] @ white.T)
        likeness[number[start : start + slab, None] == number] = 0.0
        is_alike = likeness > ALIKE
        if is_alike.sum(axis=1).max() > MOST_COPIES:  # before r^2 pairs fill the memory
            raise too_many_copies()
        one, other = np.nonzero(is_alike)
        close += int(np.count_nonzero(likeness > CLOSE))
        found.append(np.stack([number[one + start], other]))
    pairs = np.concatenate(found, axis=1)
    n_pairs = pairs.shape[1]
    pairs = np.unique(pairs, axis=1)
    copies = np.split(pairs[1], np.searchsorted(pairs[0], np.arange(1, n_units)))
    own = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    units = [Unit(rows, alike) for rows, alike in zip(own, copies, strict=True)]
    return Copies(units, n_pairs / 2 / n_rows, close / 2 / n_rows)
