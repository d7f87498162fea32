"""The public functions and ``Request`` have the same default for each option; methods have one list of names."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_args

import pytest

import rankme_stream as rs
from rankme_stream.accumulators.method import MethodName
from rankme_stream.accumulators.methods import METHODS, OFFERED
from rankme_stream.cli.commands import cli
from rankme_stream.measuring.request import Request

NOT_OPTIONS = {"source", "state", "part", "progress"}
DEFAULTS = {field.name: field.default for field in fields(Request)}
FUNCTIONS = {"measure": rs.measure, "plan": rs.plan, "segment": rs.segment, "measure_state": rs.measure_state}
OPTIONS = [
    pytest.param(function, name, id=f"{function}-{name}")
    for function in FUNCTIONS
    for name in inspect.signature(FUNCTIONS[function]).parameters
    if name not in NOT_OPTIONS
]


@pytest.mark.parametrize(("function", "name"), OPTIONS)
def test_an_option_has_the_default_of_the_request(function, name):
    default = inspect.signature(FUNCTIONS[function]).parameters[name].default
    assert (type(default), default) == (type(DEFAULTS[name]), DEFAULTS[name])


def test_measure_takes_every_option_of_a_request():
    assert inspect.signature(rs.measure).parameters.keys() - NOT_OPTIONS == DEFAULTS.keys()


def test_every_method_has_its_name_in_the_type_and_on_the_command_line():
    (option,) = (one for one in cli.commands["score"].params if one.name == "method")
    assert [*METHODS] == [*get_args(MethodName)]
    assert [*option.type.choices] == ["auto", *OFFERED]


def test_a_better_method_is_exact():
    better = [method.better for method in METHODS.values() if method.better is not None]
    assert better
    assert not any(METHODS[name].is_sketch for name in better)
