"""The rules of size, names and layout that keep the repository readable."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rankme_stream"
PACKAGES = {
    "accumulators", "cli", "groups", "measuring", "numerics", "passes", "results", "sources", "spectra",
}  # fmt: skip
LONGEST_BODY = 60  # lines, docstring aside
MOST_PARAMETERS = 6  # self and cls aside
# Public functions have a parameter for each option, which callers pass by keyword.
PUBLIC_FUNCTIONS = {
    "rankme_stream.cli.commands.compare",
    "rankme_stream.cli.commands.convert",
    "rankme_stream.cli.commands.merge",
    "rankme_stream.cli.commands.segment",
    "rankme_stream.measuring.api.measure",
    "rankme_stream.measuring.api.plan",
    "rankme_stream.measuring.api.segment",
    "rankme_stream.measuring.copying.convert.convert",
    "rankme_stream.measuring.rows_needed.rows_needed",
    "rankme_stream.results.compare.compare",
}
FORMER_NAMES = {
    "arrays", "blas", "blocks", "comparing", "container", "draws", "feed", "few_rows", "findings", "floors",
    "footprint", "grouped", "groups", "holdings", "ladder", "ledger", "looks", "measuring", "members", "once",
    "outcome", "partial", "passes", "places", "placing", "probes", "reader", "reading", "results", "runs", "sampling",
    "scatter", "scores", "seen", "sketched", "tasks", "triangle", "unit_rows", "unseen", "vectors",
}  # fmt: skip
FORMER_FUNCTIONS = {"begun", "taken_up", "told"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def listed(problems: Iterable[str]) -> str:
    return "".join(f"\n  {one}" for one in sorted(problems))


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function, bool]]:
    """Yield the dotted name of every function below a node, the function, and whether it is a method."""
    for child in ast.iter_child_nodes(node):
        name = f"{prefix}.{child.name}" if isinstance(child, Function | ast.ClassDef) else prefix
        if isinstance(child, Function):
            yield name, child, isinstance(node, ast.ClassDef)
        yield from functions(child, name)


def all_functions(*folders: str) -> Iterator[tuple[str, Function, bool]]:
    for path in modules(*folders):
        yield from functions(parsed(path), dotted_name(path))


def body_lines(function: Function) -> int:
    body = function.body[ast.get_docstring(function) is not None :]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def count_parameters(function: Function, is_method: bool) -> int:
    arguments = function.args
    is_static = any(isinstance(one, ast.Name) and one.id == "staticmethod" for one in function.decorator_list)
    named = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
    return named + bool(arguments.vararg) + bool(arguments.kwarg) - (is_method and not is_static)


def test_no_function_has_a_body_over_60_lines():
    lines = {name: body_lines(function) for name, function, _ in all_functions("rankme_stream", "benchmarks")}
    too_long = [f"{name}: {count} lines" for name, count in lines.items() if count > LONGEST_BODY]
    assert not too_long, listed(too_long)


def test_only_public_functions_take_more_than_6_parameters():
    counts = {
        name: count_parameters(function, is_method)
        for name, function, is_method in all_functions("rankme_stream", "benchmarks")
    }
    many = {name: count for name, count in counts.items() if count > MOST_PARAMETERS}
    too_many = [f"{name}: {count} parameters" for name, count in many.items() if name not in PUBLIC_FUNCTIONS]
    assert not too_many, listed(too_many)
    not_needed = PUBLIC_FUNCTIONS - many.keys()
    assert not not_needed, f"exceptions that are not needed:{listed(not_needed)}"


def test_the_package_holds_nine_packages_and_at_most_five_files():
    entries = [path for path in PACKAGE.iterdir() if path.is_file() or any(path.glob("*.py"))]  # no caches
    assert {path.name for path in entries if path.is_dir()} == PACKAGES
    assert len([path for path in entries if path.is_file()]) <= 5


def test_no_module_bears_a_former_name():
    found = [dotted_name(path) for path in modules("rankme_stream") if path.stem in FORMER_NAMES]
    assert not found, listed(found)


def test_no_function_bears_a_former_name():
    found = [name for name, function, _ in all_functions("rankme_stream") if function.name in FORMER_FUNCTIONS]
    assert not found, listed(found)


@pytest.mark.parametrize(
    "path", [path for path in modules("rankme_stream") if path.name == "__init__.py"], ids=dotted_name
)
def test_a_package_says_in_one_sentence_what_it_is_and_defines_nothing(path):
    docstring = ast.get_docstring(parsed(path)) or ""
    assert re.fullmatch(r"[A-Z](?:[^.]|\.(?!\s))*\.", docstring), docstring
    if path.parent == PACKAGE:
        return  # the public names load their modules when they are first asked for
    statements = [ast.unparse(one) for one in parsed(path).body[1:] if not isinstance(one, ast.Import | ast.ImportFrom)]
    definitions = [text for text in statements if not text.startswith("__all__ = ")]
    assert not definitions, listed(definitions)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names(path: Path) -> Iterator[str]:
    """Yield the private names of other modules of the package that a module imports or reaches through a module."""
    aliases = {}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rankme_stream":
            for one in node.names:
                aliases[one.asname or one.name] = f"{node.module}.{one.name}"
                if is_private(one.name):
                    yield f"{node.module}.{one.name}"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            home = aliases[node.value.id]
            if is_private(node.attr) and (ROOT.joinpath(*home.split(".")).with_suffix(".py")).exists():
                yield f"{home}.{node.attr}"


def test_no_module_reaches_for_a_private_name_of_another():
    found = {f"{dotted_name(path)}: {name}" for path in modules("rankme_stream") for name in private_names(path)}
    assert not found, listed(found)


def is_there(name: str) -> bool:
    """Return whether a dotted name leads to a module or to something in one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            if find_spec(".".join(parts[:cut])) is None:
                continue
        except ModuleNotFoundError:
            continue
        if cut == len(parts):
            return True
        try:
            target = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:  # of an optional library: the names in its module cannot be looked up
            return True
        for part in parts[cut:]:
            if not hasattr(target, part):
                return False
            target = getattr(target, part)
        return True
    return False


def test_every_dotted_name_in_a_string_leads_somewhere():
    """Names that are imported late, patched or pickled; a rename does not find them by itself."""
    names = {
        (dotted_name(path), node.value)
        for path in modules("rankme_stream", "benchmarks", "tests")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"(rankme_stream|benchmarks|tests)(\.\w+)+", node.value)
    }
    assert len(names) > 10
    lost = [f"{module}: {name}" for module, name in names if not is_there(name)]
    assert not lost, listed(lost)


def test_every_path_that_a_page_or_a_comment_names_exists():
    texts = [*ROOT.glob("*.md"), ROOT / "Makefile", *(ROOT / "docs").glob("*.md")]
    path = re.compile(r"(?<![\w/.])(?:benchmarks|docs|rankme_stream|tests)/[\w/.-]*\w")
    lost = [
        f"{text.relative_to(ROOT)}: {name}"
        for text in [*texts, *modules("rankme_stream", "benchmarks", "tests")]
        for name in path.findall(text.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]
    assert not lost, listed(lost)


def test_the_tables_of_the_design_name_every_module_of_their_package_and_no_other():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", "".join(line for line in text.splitlines() if line.startswith("| "))))
    here = {path.stem for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE and not path.stem.startswith("__")}
    folders = {path.name for path in PACKAGE.rglob("*") if path.is_dir()} | {"rankme"}
    assert named | folders == here | folders, f"not named: {here - named}; not there: {named - here - folders}"
