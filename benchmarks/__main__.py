"""``python -m benchmarks NAME`` runs a benchmark; ``python -m benchmarks --list`` shows what each one answers."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

BENCHMARKS = {
    "speed": "benchmarks.speed.comparison",
    "scaling": "benchmarks.speed.scaling",
    "billion": "benchmarks.speed.billion",
    "sampled": "benchmarks.speed.sampled",
    "chunk_check": "benchmarks.speed.chunk_check",
    "few_rows": "benchmarks.speed.few_rows",
    "packed_rows": "benchmarks.speed.packed_rows",
    "formats": "benchmarks.speed.formats",
    "gpu": "benchmarks.speed.gpu",
    "intervals": "benchmarks.validity.intervals",
    "small_exact": "benchmarks.validity.small_exact",
    "accuracy": "benchmarks.validity.accuracy",
    "adversarial": "benchmarks.validity.adversarial",
    "aimed_probes": "benchmarks.validity.aimed_probes",
    "coverage": "benchmarks.validity.coverage",
    "population": "benchmarks.validity.population",
    "row_sketch": "benchmarks.validity.row_sketch",
    "wide": "benchmarks.validity.wide",
    "chaos": "benchmarks.resilience.chaos",
    "cluster": "benchmarks.resilience.cluster",
    "hostile_states": "benchmarks.resilience.hostile_states",
    "hostile_metadata": "benchmarks.resilience.hostile_metadata",
    "faulty_server": "benchmarks.resilience.faulty_server",
    "hostile_results": "benchmarks.resilience.hostile_results",
    "hostile_options": "benchmarks.resilience.hostile_options",
    "memory_peaks": "benchmarks.resilience.memory_peaks",
    "format_memory": "benchmarks.resilience.format_memory",
    "mutated": "benchmarks.resilience.mutated_files",
    "selection": "benchmarks.selection.study",
}
_USAGE = """\
python -m benchmarks NAME [--quick | --full] [--out FOLDER]   run a benchmark
python -m benchmarks NAME --help                              show its options and how long each size takes
python -m benchmarks --list                                   show this text
"""


def listing() -> str:
    """Return a line for each benchmark: its name and the question that it answers."""
    return "\n".join(f"{name:<15} {question(module)}" for name, module in BENCHMARKS.items())


def question(module: str) -> str:
    """Return the first line of a module's docstring, without importing what the module needs."""
    path = Path(__file__).parents[1] / f"{module.replace('.', '/')}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def main() -> object:
    """Run the benchmark that the first argument names on the arguments after it; return its exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--list"
    if name in ("--list", "--help", "-h"):
        print(f"{_USAGE}\n{listing()}")
        return 0
    if name not in BENCHMARKS:
        print(f"benchmarks: error: no benchmark is called {name!r}; --list shows their names", file=sys.stderr)
        return 2
    del sys.argv[1]
    return import_module(BENCHMARKS[name]).main()


if __name__ == "__main__":
    raise SystemExit(main())
