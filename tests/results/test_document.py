"""Result files: a document that is not a result in every part is refused, and the place in it is named."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import ResultError
from rankme_stream.results.comparable_run import ComparableRun
from rankme_stream.results.document import parse_results
from rankme_stream.results.table import table


@pytest.fixture(scope="module")
def documents():
    rows = np.random.default_rng(0).standard_normal((600, 6))
    many = np.random.default_rng(1).standard_normal((20_000, 6))
    return [
        one.to_dict()
        for one in (
            rs.measure(rows, normalize=True, dims=(2,), groups=np.arange(600) % 5),
            rs.measure(rows, method="rsvd", rank=2, oversampling=1, tolerance=9.0),
            rs.measure(many, sample=True, tolerance=0.2),
            rs.measure(np.zeros((3, 1))),
        )
    ]


def changed(document, path, value):
    """Return the text of a document with another value, or without one for ``...``."""
    document = copy.deepcopy(document)
    *parents, last = path
    holder = document
    for key in parents:
        holder = holder[key]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return json.dumps(document)


def test_results_of_every_kind_read_back_and_are_shown(documents):
    for document in documents:
        (read,) = parse_results(json.dumps(document), "r.json")
        assert read == document
        assert table(read)
        assert ComparableRun.of(read, "r.json").numbers
    assert len(parse_results("\n".join(map(json.dumps, documents)), "r.jsonl")) == len(documents)


def test_a_sample_of_an_earlier_version_reads_back_and_is_shown(documents):
    document = copy.deepcopy(documents[2])
    for name in ("rare", "estimator", "tail", "widened", "largest_replicate"):
        del document["sampling"][name]
    for point in document["convergence"]:
        for name in ("units", "withheld", "not_excluded", "rows_wanted"):
            del point[name]
    (read,) = parse_results(json.dumps(document), "r.json")
    assert "rows  RankMe " in table(read)
    assert ComparableRun.of(read, "r.json").rows == 20_000


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("sampling", "rare", "not_excluded"), 1.5, "sampling.rare.not_excluded is 1.5 and must be a number between"),
        (("sampling", "widened"), 0.5, "sampling.widened is 0.5"),
        (
            ("sampling", "estimator"),
            "guess",
            "sampling.estimator is 'guess' and must be 'jackknife' or 'random-matrix'",
        ),
        (("convergence", 0, "withheld"), 5, r"convergence\[0\].withheld is 5 and must be text"),
    ],
)
def test_a_part_of_a_sample_that_does_not_suit_is_named(documents, path, value, message):
    with pytest.raises(ResultError, match=message):
        parse_results(changed(documents[2], path, value), "r.json")


RANKME = ("estimates", "rankme")
LONG = "[" * 100_000


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*RANKME, "value"), "x", "estimates.rankme.value is 'x' and must be a number"),
        ((*RANKME, "value"), "nan", "estimates.rankme.value is 'nan' and must be a number"),
        ((*RANKME, "value"), True, "estimates.rankme.value is True"),
        ((*RANKME, "value"), 1e6, "estimates.rankme.value is 1e.06, outside of"),
        ((*RANKME, "value"), None, "estimates.rankme.reason is absent"),
        ((*RANKME, "lower"), 5.999999, "estimates.rankme.lower is .*, above upper|estimates.rankme.value is"),
        ((*RANKME, "lower"), None, "estimates.rankme has one end of an interval"),
        ((*RANKME, "confidence"), 2, "estimates.rankme.confidence is 2 and must be a number between 0 and 1"),
        (RANKME, ..., "estimates.rankme is absent"),
        (("dims",), 1.5, "dims is 1.5 and must be an object"),
        (("dims", "7"), {}, "dims.7.rankme is absent"),
        (("dims", "2", "nesum", "value"), [], r"dims.2.nesum.value is \[\]"),
        (("groups", "3", "rankme", "details"), [], "groups.3.rankme.details"),
        (("estimates", "lidar", "details", "rows_per_group"), [1], "estimates.lidar.details.rows_per_group"),
        (("presets", "paper", "lower"), 1e9, "presets.paper.lower is 1e.09, above upper"),
        (("definition", "nesum"), ..., "definition.nesum is absent"),
        (("rows_read",), "1.5", "rows_read is '1.5' and must be a whole number of at least 0"),
        (("rows_read",), 10**9, "rows_read is more than the rows of the source"),
        (("source", "uri"), 5, "source.uri is 5 and must be text"),
        (("source", "n_rows"), 10**19 * 2, "source.n_rows is"),
        (("spectrum", "singular_values", 2), -1.0, r"spectrum.singular_values\[2\] is -1.0"),
        (("audit", "rows_zero"), 3, "audit.first_zero is absent"),
        (("passes",), [], "passes is .. and must be a list of at least 1"),
        (("schema_version",), 2, "is a result of version 2, newer than this program"),
        (("schema_version",), "1", "schema_version is '1'"),
        (("error",), 1, "error is 1 and must be an object"),
        (("provenance", "blas_checked"), 1, "provenance.blas_checked is 1 and must be true or false"),
    ],
)  # fmt: skip
def test_a_part_that_does_not_suit_is_named(documents, path, value, message):
    with pytest.raises(ResultError, match=message) as refusal:
        parse_results(changed(documents[0], path, value), "r.json")
    assert str(refusal.value).startswith("r.json is")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.json is empty"), ("\n \n", "r.json is empty"), (LONG, "nested too deeply"),
        ('{"schema_version": ' + LONG, "nested too deeply"), ("[1]", "is not a result"),
        ('{"a": NaN}', "NaN, which is not JSON"), ('{"a": 1e999}', "beyond the range of doubles"),
        ('{"a": %s}' % ("9" * 5000), "more than 20 digits"), ("{", "is not JSON"),
    ],
)  # fmt: skip
def test_text_that_is_no_result_is_refused(text, message):
    with pytest.raises(ResultError, match=message):
        parse_results(text, "r.json")


def places(value, path=()):
    """Yield the path of every value of a document."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value[:3]):
        yield (*path, key)
        if isinstance(one, dict | list):
            yield from places(one, (*path, key))


def test_what_is_read_can_be_shown_and_compared(documents):
    """One place after another takes a value of another type; most are refused, and no other breaks a table."""
    n_refused = 0
    for document in documents[:2]:
        for number, path in enumerate(places(document)):
            value = ("x", -1, None, [], {}, True, ...)[number % 7]
            text = changed(document, path, value)
            try:
                (read,) = parse_results(text, "r.json")
            except ResultError:
                n_refused += 1
            else:
                assert table(read) and ComparableRun.of(read, "r.json").numbers
    assert n_refused > 200
