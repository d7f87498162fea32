"""Messages: one line that is safe to print, in the words of its reader."""

from __future__ import annotations

import ast
import pickle
import re
import unicodedata
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rankme_stream
from rankme_stream import errors
from rankme_stream.cli.commands import cli
from rankme_stream.cli.options import on_command_line
from rankme_stream.errors import SourceNotFoundError, UsageError, argument, printable, worded

PACKAGE = Path(rankme_stream.__file__).parent


@given(st.text(st.characters()))
def test_printable_text_obeys_no_terminal_and_can_be_encoded(text):
    safe = printable(text)
    assert all(one == " " or unicodedata.category(one)[0] not in "CZ" for one in safe)
    assert safe.encode("utf-8").decode() == safe
    assert printable(safe) == safe


def test_what_a_reader_can_read_stays_as_it_is():
    for text in ("plain text", "é ± 语料 العربية", "back\\slash"):
        assert printable(text) == text
    assert printable("\x1b[2J\x07\n\x9b\u202e\u2066\u200b\u2028\udcff") == (
        r"\x1b[2J\x07\n\x9b\u202e\u2066\u200b\u2028\udcff"
    )


def test_an_argument_is_written_as_its_reader_does():
    message = (
        f"{argument('memory_limit')} is 5: drop {argument('groups')}, or pass {argument('method', 'gram')}, "
        f"{argument('passes', 2)} and {argument('sample', True)}"
    )
    error = UsageError(message)
    assert str(error) == 'memory_limit is 5: drop groups, or pass method="gram", passes=2 and sample=True'
    assert worded(message, on_command_line) == (
        "--memory is 5: drop --group-by, or pass --method gram, --passes 2 and --sample"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(UsageError(f"again: {error.message}")) == f"again: {error}"


def test_the_text_of_an_error_is_safe_whatever_names_it_holds():
    assert str(SourceNotFoundError("there is no file x\x1b[31m\ny")) == r"there is no file x\x1b[31m\ny"


def marked_names():
    """Yield every name that the package marks as an argument in a message."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_mark = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "argument"
            if is_mark and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value


def test_every_argument_in_a_message_is_an_option_of_some_command():
    options = {name for one in cli.commands.values() for parameter in one.params for name in parameter.opts}
    names = {*marked_names()}
    assert {"tolerance", "memory_limit", "groups"} <= names
    assert {on_command_line(name, None) for name in names} <= options


def test_no_message_of_the_library_names_an_option_of_the_command_line():
    options = {name for one in cli.commands.values() for parameter in one.params for name in parameter.opts}
    commands = re.compile(r"rankme \w+|--part I/N")  # messages that name a whole command
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name in ("cli", "inspecting"):  # the latter makes the commands that it recommends
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        whole = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        in_commands = {id(part) for node in whole if commands.search(ast.unparse(node)) for part in node.values}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        documentation = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
        }
        for node in texts:
            if id(node) not in documentation | in_commands and not commands.search(node.value):
                assert not options & {*re.findall(r"--[a-z-]+", node.value)}, (path.name, node.value)


@pytest.mark.parametrize("command", cli.commands)
def test_help_names_options_and_not_arguments_of_python(command):
    text = cli.commands[command].get_help(click.Context(cli.commands[command], info_name=command))
    assert not re.search(r"\b(memory_limit|max_rows|json_file|scores_file|state_file)\b", text)


def test_every_error_has_a_documented_exit_code():
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.RankMeError)]
    assert {one.exit_code for one in kinds if one is not errors.RankMeError} == {2, 3, 4, 5}
