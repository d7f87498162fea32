"""``python -m benchmarks NAME`` runs a benchmark; ``python -m benchmarks --list`` names them."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

BENCHMARKS = {
    "speed": "benchmarks.speed.comparison",
    "scaling": "benchmarks.speed.scaling",
    "billion": "benchmarks.speed.billion",
    "sampled": "benchmarks.speed.sampled",
    "chunk_check": "benchmarks.speed.chunk_check",
    "gpu": "benchmarks.speed.gpu",
    "intervals": "benchmarks.validity.intervals",
    "accuracy": "benchmarks.validity.accuracy",
    "adversarial": "benchmarks.validity.adversarial",
    "coverage": "benchmarks.validity.coverage",
    "row_sketch": "benchmarks.validity.row_sketch",
    "wide": "benchmarks.validity.wide",
    "chaos": "benchmarks.resilience.chaos",
    "cluster": "benchmarks.resilience.cluster",
    "selection": "benchmarks.selection.study",
}


def listing() -> str:
    """Return a line for each benchmark: its name and the first line of its module's docstring."""
    lines = []
    for name, module in BENCHMARKS.items():
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None
        text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
        lines.append(f"{name:<12} {text.splitlines()[0]}")
    return "\n".join(lines)


def main() -> object:
    """Run the benchmark that the first argument names with the arguments after it; return its exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in BENCHMARKS:
        del sys.argv[1]
        return import_module(BENCHMARKS[name]).main()
    if name in ("--list", "--help", "-h"):
        print(f"python -m benchmarks NAME [--quick | --full] [--out FOLDER]\n\n{listing()}")
        return 0
    print(f"benchmarks: error: no benchmark is called {name!r}; --list names them", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
