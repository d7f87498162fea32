"""Every benchmark is listed, runs at its quick size, and writes the files that the documentation quotes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS

ROOT = Path(__file__).parents[2]
NAMES = [
    "accuracy",
    "adversarial",
    "aimed_probes",
    "billion",
    "chaos",
    "chunk_check",
    "cluster",
    "coverage",
    "population",
    "hostile_metadata",
    pytest.param(
        "faulty_server", marks=pytest.mark.skipif(find_spec("aiohttp") is None, reason="aiohttp is not installed")
    ),
    "few_rows",
    "format_memory",
    "formats",
    "packed_rows",
    "hostile_options",
    "hostile_results",
    "hostile_states",
    "intervals",
    "memory_peaks",
    "mutated",
    "row_sketch",
    "sampled",
    "scaling",
    pytest.param(
        "selection", marks=pytest.mark.skipif(find_spec("torch") is None, reason="it trains: torch is not installed")
    ),
    "small_exact",
    "speed",
    "wide",
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [(), ("--list",), ("--help",)])
def test_the_list_names_every_benchmark_with_the_question_that_it_answers(arguments):
    shown = run(*arguments)
    lines = dict(line.split(maxsplit=1) for line in shown.stdout.split("\n\n")[1].splitlines())
    assert shown.returncode == 0
    assert [*lines] == [*BENCHMARKS]
    assert all(text.endswith("?") and len(text) <= 120 for text in lines.values())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_module_of_a_benchmark_has_a_main_that_takes_nothing(name):
    """Without importing it, which may take libraries that are not installed."""
    module = ast.parse((ROOT / f"{BENCHMARKS[name].replace('.', '/')}.py").read_text(encoding="utf-8"))
    functions = {node.name: node.args for node in module.body if isinstance(node, ast.FunctionDef)}
    assert not [*functions["main"].args, *functions["main"].kwonlyargs]


def test_an_unknown_name_ends_with_2_and_one_line():
    done = run("spede", "--quick")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "benchmarks: error: no benchmark is called 'spede'; --list shows their names\n"


def test_every_benchmark_but_that_of_cards_runs_here():
    assert {*BENCHMARKS} == {name if isinstance(name, str) else name.values[0] for name in NAMES} | {"gpu"}


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_at_its_quick_size(name, tmp_path):
    done = run(name, "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["command"] == f"python -m benchmarks {name} --quick"
    assert result["machine"] and result["date"]
    assert (tmp_path / f"{name}.md").read_text().startswith("# ")
    assert (ROOT / "benchmarks" / "results" / f"{name}.json").exists()


def test_the_benchmark_of_cards_runs_without_one_and_says_so(tmp_path):
    done = run("gpu", "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result, text = json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()
    measured = {line["what"] for line in result["lines"]}
    assert {"host", "queue"} <= measured
    assert ("pass" in measured) == (result["is_card"] or find_spec("torch") is not None)
    unknown = [one for one in result["left_out"] if "everything by" not in one["part"] and "torch" not in one["part"]]
    assert not unknown
    assert result["is_card"] or ("**No card.**" in text and "holds |" not in text.partition("Our passes")[0])


def test_parts_for_which_no_time_is_left_are_listed(tmp_path):
    done = run("gpu", "--quick", "--seconds", "0", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["lines"] == []
    assert {"no time was left"} < {one["why"] for one in result["left_out"]}
