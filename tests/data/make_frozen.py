"""Write ``frozen.json`` anew with the results of the code as it is: ``python -m tests.data.make_frozen`` from the root.

Run it only where a result is meant to change, and look at what changed: the file is there so that a rearrangement of
the code cannot change a result without notice.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from tests.frozen_cases import CASES, EXPECTED, World, computed, folded, inputs, signature


def main() -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    changed = ["git", "status", "--porcelain", "--", "rankme_stream"]
    if subprocess.run(changed, capture_output=True, text=True, check=True).stdout:
        commit += " and changes to the package that were not committed"
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            found = {name: computed(name, world) for name in CASES}
            hashes = inputs(world)
        finally:
            world.close()
    paths = sorted({path for one in found.values() for path in one["figures"]}, key=lambda path: path.rpartition("/"))
    shared: dict[str, object] = {}
    cases = {
        name: {
            "skeleton": folded(one["skeleton"], shared),
            "figures": [
                f"{paths.index(path)} {value:.10g} {width:.2g}" for path, (value, width) in one["figures"].items()
            ],
            "bits": one["bits"],
        }
        for name, one in found.items()
    }
    head = {"commit": commit, "command": "python -m tests.data.make_frozen", "signature": signature(), "inputs": hashes}
    lines = {"paths": _by_parent(paths), "shared": shared, "cases": cases}
    parts = [
        *(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()),
        *(f"{json.dumps(key)}: {_lines(value)}" for key, value in lines.items()),
    ]
    EXPECTED.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def _by_parent(paths: list[str]) -> dict[str, str]:
    """Return the last names of paths by what comes before them: their order is that of the paths."""
    found: dict[str, list[str]] = {}
    for path in paths:
        parent, _, name = path.rpartition("/")
        assert " " not in name
        found.setdefault(parent, []).append(name)
    return {parent: " ".join(names) for parent, names in found.items()}


def _lines(entries: dict[str, object]) -> str:
    """Return an object with a line for each entry, so that a change shows as the lines that it is in."""
    compact = (f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in entries.items())
    return "{\n" + ",\n".join(compact) + "\n}"


if __name__ == "__main__":  # the processes of a Dask cluster import this module again
    main()
