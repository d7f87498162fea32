"""A pass for `benchmarks chaos` to kill: ``python -m benchmarks.resilience.killable_pass URI OPTIONS``.

OPTIONS is JSON: arguments of ``rs.segment`` if ``part`` is among them, of ``rs.measure`` otherwise. The process prints
a line once everything is imported, and writes checkpoints without a pause, so that kills fall into writes as well.
"""

from __future__ import annotations

import json
import sys
from unittest import mock

import rankme_stream as rs

PAUSES = (
    "rankme_stream.passes.state.checkpoint._PERIOD_S",
    "rankme_stream.passes.state.checkpoint._PERIODS_A_WRITE",
    "rankme_stream.passes.engines.dask.schedule._GATHER_S",
)


def drop_pauses() -> None:
    """Write checkpoints, and gather the results of workers, all the time instead of once a minute."""
    for name in PAUSES:
        mock.patch(name, 0.0).start()  # unlike an assignment, this fails when the name moves


def main() -> None:
    """Run the pass."""
    uri, options = sys.argv[1], json.loads(sys.argv[2])
    drop_pauses()
    print("ready", flush=True)
    if "part" in options:
        rs.segment(uri, **options | {"part": tuple(options["part"])})
    else:
        rs.measure(uri, **options)


if __name__ == "__main__":
    main()
