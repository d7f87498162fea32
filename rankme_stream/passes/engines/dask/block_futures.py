"""Blocks of a Dask array that the workers of a pass compute, each once, and keep while a task needs them."""

from __future__ import annotations

from typing import Any

from rankme_stream.sources import BlockSource, ComputedBlock


class BlockFutures:
    """Futures of the blocks of a source, on the cluster of a client.

    Parameters
    ----------
    source
        Source whose blocks are Dask arrays; those that were persisted are used where they lie.
    client
        ``distributed.Client``.
    """

    def __init__(self, source: BlockSource, client: Any) -> None:
        self._source, self._client = source, client
        self._held: dict[int, ComputedBlock] = {}  # by first row

    def holding(self, start: int, stop: int) -> list[ComputedBlock]:
        """Return the blocks that hold rows ``[start, stop)``, with futures in place of arrays."""
        blocks = self._source.blocks_to_compute(start, stop)
        for block in blocks:
            if block.start not in self._held:
                self._held[block.start] = block._replace(values=self._client.compute(block.values))
        return [self._held[block.start] for block in blocks]

    def release_before(self, row: int | None) -> None:
        """Let go of the blocks that end at a row or before it; of all for None."""
        self._held = {} if row is None else {first: one for first, one in self._held.items() if one.stop > row}
