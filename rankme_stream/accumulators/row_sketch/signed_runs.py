"""Sketch rows to which the rows of a source are added, and their signs: functions of seed and row number alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rankme_stream.numerics import counter_rng
from rankme_stream.numerics.dtypes import Array, FloatArray

_TILE_ROWS = 1024  # rows for which random numbers are drawn at once
_TILES_KEPT = 64  # 8 KiB each at most, whatever the width of the rows
_LONGEST_RUN = 256
_RUNS_A_SKETCH = 32  # fewest runs in a sketch, so that its folding in four is a sketch as well
_ROTATIONS = 2**62  # first counter of the rotations of tiles; those of signs lie below it


class Piece(NamedTuple):
    """Rows [start, stop) of the source, added to rows [sketch_start, sketch_stop) of the sketch."""

    start: int
    stop: int
    sketch_start: int
    sketch_stop: int


def pieces(seed: int, sketch_rows: int, start: int, stop: int) -> Iterator[Piece]:
    """Yield the pieces in which rows [start, stop) are added: their runs, cut at the end of the sketch."""
    length = run_rows(sketch_rows)
    row = start
    while row < stop:
        run, first = divmod(row, length)
        end = min(stop, (run + 1) * length)
        tile, number = divmod(run, _TILE_ROWS // length)
        first_row = (int(_rotations(seed, sketch_rows, tile)[number]) + first) % sketch_rows
        wrap = min(end, row + sketch_rows - first_row)
        yield Piece(row, wrap, first_row, first_row + wrap - row)
        if wrap < end:
            yield Piece(wrap, end, 0, end - wrap)
        row = end


def signs(seed: int, start: int, stop: int) -> FloatArray:
    """Return the signs of rows [start, stop)."""
    first = start // _TILE_ROWS
    every = [_tile_signs(seed, tile) for tile in range(first, -(-stop // _TILE_ROWS))]
    return np.concatenate(every)[start - first * _TILE_ROWS : stop - first * _TILE_ROWS]


def run_rows(sketch_rows: int) -> int:
    """Return the number of rows of a run: a power of two, at most a 32nd of the sketch, at least one."""
    wanted = max(1, sketch_rows // _RUNS_A_SKETCH)
    return min(_LONGEST_RUN, 1 << (wanted.bit_length() - 1))


@lru_cache(maxsize=_TILES_KEPT)
def _rotations(seed: int, sketch_rows: int, tile: int) -> Array:
    """Return the first sketch row of each run of a tile."""
    return counter_rng.integers(
        (_TILE_ROWS // run_rows(sketch_rows),), sketch_rows, seed=seed, counter=_ROTATIONS + tile
    )


@lru_cache(maxsize=_TILES_KEPT)
def _tile_signs(seed: int, tile: int) -> FloatArray:
    return counter_rng.signs((_TILE_ROWS,), seed=seed, counter=tile)
