"""The public functions and ``Request`` have the same default for each option."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

import rankme_stream as rs
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
