"""Write the golden state files of a version, once when a version is new: ``python -m tests.data.make_states``."""

import tempfile
from pathlib import Path

import rankme_stream as rs
from rankme_stream.passes.state import state_file
from tests.dumps import PASSES, rows_like, store

HERE = Path(__file__).parent


def main() -> None:
    for name, options in PASSES.items():
        target = HERE / f"state-v{state_file.VERSION}-{name.replace(' ', '-')}.rankme"
        if target.exists():
            continue
        with tempfile.TemporaryDirectory() as folder:
            source = store(Path(folder) / "golden.zarr", rows_like(300, 5, seed=1))
            rs.segment(source, part=(0, 1), state=target, **options)


if __name__ == "__main__":  # collecting doctests imports this module
    main()
