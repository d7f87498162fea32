"""Write the golden state files of a version: run once when a version is new, from the root of the repository."""

import tempfile
from pathlib import Path

import rankme_stream as rs
from rankme_stream.passes.state import state_file
from tests.test_state import PASSES, rows_like, store

here = Path(__file__).parent
for name, options in PASSES.items():
    target = here / f"state-v{state_file.VERSION}-{name.replace(' ', '-')}.rankme"
    if target.exists():
        continue
    with tempfile.TemporaryDirectory() as folder:
        source = store(Path(folder) / "golden.zarr", rows_like(300, 5, seed=1))
        rs.segment(source, part=(0, 1), state=target, **options)
