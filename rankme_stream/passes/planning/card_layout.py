"""Sizes of what a pass on a card keeps: slots, slabs and runs. Slots and runs change no bit of a result."""

from __future__ import annotations

from rankme_stream.accumulators.method import Precision, power_of_two_below

_SLOTS, _FEWEST_SLOTS = 6, 2
SLOT_BYTES = (2**25, 2**23, 2**21)  # tried in this order: smaller copies need more calls
PIECE_BYTES = 2**21  # that one thread reads at a time
_SLAB_VALUES = {"float64": 2**24, "float32": 2**26}  # looked at and multiplied together, by precision of the products
_MOST_PANELS = 16  # of a slab
_EXACT_ROWS = 4096  # of one product of 16-bit rows: shorter ones write more squares, longer ones lose more digits
_RUN_BYTES = 2**28  # of rows: the host waits for each run once, while the card does the next


def slots(*, reads_ahead: bool) -> int:
    """Return the number of blocks that are read or copied to a card at once."""
    return _SLOTS if reads_ahead else _FEWEST_SLOTS


def slab_panels(panel_rows: int, n_features: int, segment_rows: int, precision: Precision) -> int:
    """Return the number of panels of a slab, a power of two that divides a segment."""
    fit = _SLAB_VALUES[precision] // (panel_rows * n_features)
    return power_of_two_below(max(1, min(_MOST_PANELS, fit, segment_rows // panel_rows)))


def exact_product_rows(panel_rows: int, slab_rows: int) -> int:
    """Return the rows of one product of 16-bit rows, whole panels that divide a slab."""
    return max(panel_rows, min(_EXACT_ROWS // panel_rows * panel_rows, slab_rows))


def run_level(segment_rows: int, row_bytes: int) -> int:
    """Return the level, in the merge tree, of a run: one wait for the card each."""
    return max(1, _RUN_BYTES // (segment_rows * row_bytes)).bit_length() - 1
