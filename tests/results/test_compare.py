"""Runs side by side: their order, what intervals cannot tell apart, what is refused, and how metrics go with scores."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import rankme_stream as rs
from rankme_stream.errors import ResultError, SourceFormatError, SourceNotFoundError, UsageError
from rankme_stream.measuring.saved_results import entries
from rankme_stream.results.comparable_run import ComparableRun, Number, check_metric, names_of, options_for
from rankme_stream.results.compare import compare
from rankme_stream.results.correlations import N_RESAMPLES, Scored, losses
from rankme_stream.results.downstream_scores import Score, match_scores, read_scores
from rankme_stream.results.ranking import ranked, select_highest
from rankme_stream.testing import matrix_with_spectrum
from tests.command_line import rankme, refused

# Flatter spectra rank higher; the two at 0.8 differ by less than float64 tells.
DECAYS = {"d": 0.8, "a": 0.2, "h": 2.0, "b": 0.4, "c": 0.6, "e": 0.8 + 1e-13, "g": 1.5, "f": 1.0}
SCORES = {"a": 70.0, "b": 71.5, "c": 69.0, "d": 66.0, "e": 66.5, "f": 64.0, "g": 66.5, "h": 50.0}
ORDER = "abcdefgh"


def spectrum(decay: float, n_features: int = 32) -> np.ndarray:
    return np.arange(1.0, n_features + 1.0) ** -decay


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    for seed, (name, decay) in enumerate(DECAYS.items()):
        rows = 30.0 * matrix_with_spectrum(spectrum(decay), n_rows=500, n_features=32, seed=seed)
        np.save(path / f"{name}.npy", rows)
    lines = [f"{name}.npy,{score},{ORDER.index(name)}" for name, score in SCORES.items()]
    (path / "scores.csv").write_text("\n".join(["source,score,hyperparameter", *lines, ""]))
    return path


@pytest.fixture(scope="module")
def documents(folder):
    return {name: rs.measure(folder / f"{name}.npy", normalize=True).to_dict() for name in DECAYS}


def dumps(folder):
    return [folder / f"{name}.npy" for name in DECAYS]


def estimate(value, lower, upper, reason="it has none"):
    plain = {"value": value, "lower": lower, "upper": upper, "confidence": 1.0, "covers": ["arithmetic"]}
    return plain | ({"reason": reason} if value is None else {})


def number(value, lower, upper):
    return Number.of(estimate(value, lower, upper))


def run_like(documents, uri, **changed):
    """Return the run of a result that differs in some estimates, given as values, or in other keys."""
    document = copy.deepcopy(documents["a"])
    document["source"]["uri"] = uri
    for name, value in changed.items():
        if name in document["estimates"]:
            document["estimates"][name] = estimate(value, value, value)
        elif isinstance(value, dict):
            document[name] = (document[name] or {}) | value
        else:
            document[name] = value
    return ComparableRun.of(document, uri)


# --- the order, and what cannot be told apart


def test_eight_dumps_come_in_their_true_order_and_the_pair_within_its_intervals_is_marked(folder):
    done = rankme("compare", *dumps(folder), "--json", folder / "all.json")
    assert (done.returncode, done.stderr) == (0, "")
    runs = json.loads((folder / "all.json").read_text())["sweeps"][0]["runs"]
    found = "".join(one["name"].removesuffix(".npy") for one in runs)
    assert found in (ORDER, ORDER.replace("de", "ed"))
    for one in runs:
        s = spectrum(DECAYS[one["name"].removesuffix(".npy")])
        p = s / s.sum() + 1e-7
        rounding = 1e-12  # of the planted spectrum, and of this formula
        assert (
            one["estimate"]["lower"] - rounding <= np.exp(-(p * np.log(p)).sum()) <= one["estimate"]["upper"] + rounding
        )
    marked = {one["name"]: (one["groups"], one["overlaps"]) for one in runs if one["groups"]}
    assert marked == {"d.npy": (["a"], ["e.npy"]), "e.npy": (["a"], ["d.npy"])}
    lines = {line.split()[1]: line.split() for line in done.stdout.splitlines() if ".npy" in line}
    assert [name for name in lines if lines[name][-1] == "a"] == [one["name"] for one in runs if one["groups"]]


def test_a_sample_separates_fewer_runs_than_every_row_does():
    generator = np.random.default_rng(0)
    dumps = {
        name: generator.standard_normal((60_000, 8)) * np.array([scale, *[1.0] * 7])
        for name, scale in (("a", 1.0), ("b", 1.01), ("c", 4.0))
    }
    for options, wanted in (({}, set()), ({"sample": True, "tolerance": 5e-2}, {"a", "b"})):
        found = compare([ComparableRun.of(rs.measure(rows, **options).to_dict(), name) for name, rows in dumps.items()])
        assert {one.standing.name for one in found.sweeps[0].members if one.standing.sets} == wanted
    assert all(
        "  0.95  " in line for line in str(found).splitlines()[3:5]
    )  # what the intervals hold with is beside them


def test_overlapping_is_no_equivalence():
    standings = ranked({"c": number(2, 1, 4), "a": number(6, 5, 7), "b": number(4.5, 3, 6), "d": number(0, 0, 0.5)})
    assert [(one.name, one.rank, one.sets, one.is_tied_with_best) for one in standings] == [
        ("a", 1, ("a",), True),
        ("b", 2, ("a", "b"), True),
        ("c", 3, ("b",), False),
        ("d", 4, (), False),
    ]
    assert [one.overlaps for one in standings] == [("b",), ("a", "c"), ("b",), ()]


@given(st.lists(st.tuples(*[st.integers(0, 12)] * 3).map(sorted), min_size=1, max_size=12))
def test_two_runs_have_a_letter_in_common_exactly_where_their_intervals_overlap(ends):
    numbers = {f"run{k}": number(value, lower, upper) for k, (lower, value, upper) in enumerate(ends)}
    standings = {one.name: one for one in ranked(numbers)}
    assert len(standings) == len(numbers)
    for left, right in combinations(standings.values(), 2):
        overlap = left.number.lower <= right.number.upper and right.number.lower <= left.number.upper
        assert bool({*left.sets} & {*right.sets}) is overlap
        assert (right.name in left.overlaps) is overlap
    members = [{one.name for one in standings.values() if letter in one.sets} for letter in "abcdefghijkl"]
    assert not any(one < other for one, other in combinations([m for m in members if m], 2))


def test_a_number_without_an_interval_is_distinguished_from_none():
    standings = ranked({"a": number(9, 9, 9), "b": number(5, None, None), "c": number(1, 1, 1)})
    assert [one.overlaps for one in standings] == [("b",), ("a", "c"), ("b",)]


def test_a_run_without_a_value_is_last_with_its_reason_and_is_never_selected(documents):
    runs = [run_like(documents, name, rankme=value) for name, value in (("x", None), ("y", 3.0), ("z", 5.0))]
    found = compare(runs, selects=True)
    assert [one["rank"] for one in found.to_dict()["sweeps"][0]["runs"]] == [1, 2, None]
    assert found.selected == ["z"]
    assert str(found).splitlines()[5].split() == ["-", "x", "-", "it", "has", "none"]
    nothing = compare(runs[:1], selects=True)
    assert (nothing.selected, nothing.to_dict()["sweeps"][0]["selection"]) == ([], None)


# --- selection


@pytest.mark.parametrize(
    ("numbers", "hyperparameters", "names", "decided_by"),
    [
        ([(1, 1, 1), (5, 4, 6), (3, 2, 3.5)], {"0": 1.0, "1": 9.0, "2": 0.0}, ("1",), "interval"),
        ([(4, 3, 4.5), (5, 4, 6), (1, 1, 1)], {"0": 2.0, "1": 9.0, "2": 0.0}, ("0",), "hyperparameter"),
        ([(4, 3, 4.5), (5, 4, 6)], None, ("1",), "value"),
        ([(4, 3, 4.5), (5, 4, 6)], {"0": 2.0, "1": 2.0}, ("1",), "value"),
        ([(5, 4, 6), (5, 5, 5), (4, 3, 4)], None, ("0", "1"), "order"),
        ([(5, 4, 6), (5, 5, 5), (4, 3, 4)], {"0": 2.0, "1": 1.0, "2": 0.0}, ("2",), "hyperparameter"),
    ],
)
def test_the_highest_is_selected_and_the_smallest_hyperparameter_among_ties(
    numbers, hyperparameters, names, decided_by
):
    standings = ranked({str(place): number(*one) for place, one in enumerate(numbers)})
    selection = select_highest(standings, hyperparameters)
    assert (selection.names, selection.decided_by) == (names, decided_by)


def test_quiet_selection_prints_what_was_selected_and_nothing_else(folder, documents):
    pair = [folder / "d.npy", folder / "e.npy"]
    done = rankme("compare", *pair, folder / "h.npy", "--select", "highest", "--quiet")
    assert done.stdout.strip() in map(str, pair) and done.stderr == ""
    found = compare([ComparableRun.of(documents[name], f"{name}.json") for name in "deh"], selects=True)
    assert "undecided among the 2 runs tied for it" in str(found)
    assert found.selected[0] in map(str, pair)
    of_one = [
        ComparableRun.of({**documents[name], "source": documents["d"]["source"]}, f"{name}.json") for name in "gha"
    ]
    assert compare(of_one, selects=True).selected == ["a.json"]


# --- scores


def test_statistics_are_those_of_scipy_on_the_same_columns(folder, documents):
    done = rankme("compare", *dumps(folder), "--scores", folder / "scores.csv", "--normalize", "--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["sweeps"][0]["statistics"]
    scores = [SCORES[name] for name in DECAYS]
    columns = {name: [one["estimates"][name] for one in documents.values()] for name in documents["a"]["estimates"]}
    columns |= {
        f"normalized.{name}": [one["normalized"][name] for one in documents.values()]
        for name in documents["a"]["normalized"]
    }
    assert set(found["metrics"]) == set(columns) and len(columns) == 16
    compared = 0
    for metric, column in columns.items():
        values = [float(one["value"]) for one in column]
        if len({*values}) == 1:
            assert found["metrics"][metric]["spearman"]["reason"] == "all values are the same"
            continue
        for name, statistic in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
            one = found["metrics"][metric][name]
            assert one["value"] == pytest.approx(statistic(values, scores).statistic, rel=8 * 2.0**-52)
            assert one["lower"] <= one["value"] <= one["upper"]
            compared += 1
    assert compared >= 28
    assert found["oracle_score"] == 71.5
    assert found["lost_by_chance"] == pytest.approx(71.5 - np.mean(scores), rel=1e-15)
    assert found["metrics"]["rankme"] | {"lost": 1.5, "selected": ["a.npy"]} == found["metrics"]["rankme"]


@pytest.mark.parametrize("n_runs", [4, 9])
def test_bootstrap_intervals_are_those_of_resampled_columns(n_runs):
    generator = np.random.default_rng(n_runs)
    scores = generator.integers(0, 5, n_runs).astype(float)  # ties on both sides
    values = scores + 3.0 * generator.integers(0, 5, n_runs)
    found = Scored(scores, seed=11, confidence=0.9).correlations(values)
    times = np.random.default_rng(11).multinomial(n_runs, [1 / n_runs] * n_runs, size=N_RESAMPLES)
    brute = {"spearman": [], "kendall": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant columns, which have no correlation
        for one in times:
            x, y = np.repeat(values, one), np.repeat(scores, one)
            brute["spearman"].append(stats.spearmanr(x, y).statistic)
            brute["kendall"].append(stats.kendalltau(x, y).statistic)
    for name, all_of_them in brute.items():
        defined = [one for one in all_of_them if np.isfinite(one)]
        assert found[name].resamples == len(defined)
        assert (found[name].lower, found[name].upper) == pytest.approx(
            tuple(np.quantile(defined, [0.05, 0.95])), abs=1e-14
        )
    assert n_runs > 4 or len(defined) < N_RESAMPLES


def test_infinite_values_take_the_last_rank():
    scores = [3.0, 1.0, 2.0, 5.0, 4.0]
    infinite = Scored(scores, seed=0, confidence=0.95).correlations([np.inf, -np.inf, 0.0, np.inf, 7.0])
    assert infinite == Scored(scores, seed=0, confidence=0.95).correlations([8.0, -1.0, 0.0, 8.0, 7.0])


@pytest.mark.parametrize(
    ("values", "scores", "reason"),
    [([1, 2], [3, 4], "there are 2"), ([1, 1, 1], [1, 2, 3], "all values"), ([1, 2, 3], [5, 5, 5], "all scores")],
)
def test_a_correlation_that_is_not_defined_has_a_reason(values, scores, reason):
    for one in Scored(scores, seed=0, confidence=0.95).correlations(values).values():
        assert one.value is None and reason in one.reason


def test_the_loss_of_a_selection_is_counted_against_the_best_score():
    scores = {"a": 60.0, "b": 70.0, "c": 65.0}
    assert losses(scores, ["c"]) == {"selected_score": 65.0, "oracle_score": 70.0, "lost": 5.0, "lost_by_chance": 5.0}
    assert losses(scores, ["a", "b"])["lost"] == 5.0  # either, for all that the metric tells


def lines(*scores, sweeps=None, hyperparameters=None):
    return [
        Score(f"line {k}", str(k), score, sweeps and sweeps[k], hyperparameters and hyperparameters[k])
        for k, score in enumerate(scores)
    ]


def test_overall_is_of_all_runs_together_and_loses_the_mean_over_sweeps(documents):
    runs = [run_like(documents, str(k), rankme=value) for k, value in enumerate([1.0, 2.0, 3.0, 4.0, 6.0, 5.0])]
    scores = [10.0, 30.0, 20.0, 50.0, 40.0, 60.0]
    found = compare(runs, scores=lines(*scores, sweeps="xxxyyy")).to_dict()
    assert [[run["name"] for run in sweep["runs"]] for sweep in found["sweeps"]] == [["2", "1", "0"], ["4", "5", "3"]]
    assert [sweep["statistics"]["metrics"]["rankme"]["lost"] for sweep in found["sweeps"]] == [10.0, 20.0]
    assert [sweep["statistics"]["lost_by_chance"] for sweep in found["sweeps"]] == [10.0, 10.0]
    overall = found["overall"]["metrics"]["rankme"]
    assert (overall["lost"], found["overall"]["lost_by_chance"]) == (15.0, 10.0)
    wanted = stats.spearmanr([1, 2, 3, 4, 6, 5], scores).statistic
    assert overall["spearman"]["value"] == pytest.approx(wanted, rel=1e-15)


def test_sweeps_of_two_widths_are_compared_each_and_not_together(documents):
    wide = {"source": {"n_features": 64, "uri": "w"}}
    runs = [run_like(documents, str(k), rankme=float(k)) for k in range(3)]
    runs += [run_like(documents, "-", rankme=float(k), source=wide["source"] | {"uri": str(k)}) for k in range(3, 6)]
    scores = lines(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, sweeps="xxxyyy")
    found = compare(runs, scores=scores).to_dict()
    assert [sweep["statistics"]["metrics"]["rankme"]["kendall"]["value"] for sweep in found["sweeps"]] == [1.0, 1.0]
    assert "widths differ" in found["overall"]["metrics"]["rankme"]["kendall"]["reason"]
    assert found["overall"]["metrics"]["rankme"]["lost"] == 0.0
    assert found["mixed"] == []
    with pytest.raises(UsageError, match="widths differ"):
        compare(runs, scores=lines(1.0, 2.0, 3.0, 4.0, 5.0, 6.0))


def test_a_metric_that_some_run_lacks_has_no_statistics(documents):
    runs = [run_like(documents, str(k), rankme=float(k), nesum=None if k else 2.0) for k in range(3)]
    found = compare(runs, scores=lines(1.0, 2.0, 3.0)).to_dict()["sweeps"][0]["statistics"]["metrics"]
    assert found["nesum"]["spearman"]["reason"] == "2 of 3 runs have no value"
    assert (found["nesum"]["lost"], found["nesum"]["selected"]) == (None, [])
    assert found["rankme"]["lost"] == 0.0


# --- what must not be mixed


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_unit_rows_beside_others_are_found_by_their_lengths():
    rows = np.random.default_rng(3).standard_normal((300, 16))
    found = {
        stored: ComparableRun.of(rs.measure(array).to_dict(), stored).has_unit_rows
        for stored, array in {
            "other": rows, "unit": unit(rows), "unit16": unit(rows).astype(np.float16),
            "with zeros": np.concatenate([unit(rows), np.zeros((90, 16))]), "nearly": 1.01 * unit(rows),
        }.items()
    }  # fmt: skip
    assert found == {"other": False, "unit": True, "unit16": True, "with zeros": True, "nearly": False}


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"definition": {"rankme": "by entropy"}}, "the definitions differ: a: exp.*; b: by entropy"),
        ({"source": {"n_features": 64, "uri": "b"}}, "the widths differ: a: 32 features; b: 64 features"),
        ({"rows_read": 20}, r"largest possible ranks differ: a: 32 \(rows or features\); b: 20"),
        ({"sampling": {"population": True}}, "the targets of the intervals differ: a: the rows; b: a population"),
        (
            {"spectrum": {"singular_values": [500.0**0.5]}},
            "normalisations differ: a: rows of other lengths; b: unit rows",
        ),
    ],
)
def test_runs_that_must_agree_are_refused_or_named_as_mixed(documents, changed, text):
    runs = [run_like(documents, "a"), run_like(documents, "b", **changed)]
    with pytest.raises(UsageError, match=f"{text}.*allow_mixed=True"):
        compare(runs)
    found = compare(runs, allow_mixed=True)
    assert len(found.mixed) == 1 and "Compared all the same: the " in str(found)


def test_the_first_features_of_any_width_and_metrics_of_unit_rows_may_be_compared(documents):
    few = {"8": documents["a"]["estimates"]}
    wide = [
        run_like(documents, "a", dims=few),
        run_like(documents, "b", dims=few, source={"n_features": 64, "uri": "b"}),
    ]
    assert compare(wide, metric="dims.8.rankme").mixed == []
    unit_rows = {"singular_values": [500.0**0.5]}
    either = [run_like(documents, "a"), run_like(documents, "b", spectrum=unit_rows)]
    assert compare(either, metric="normalized.vendi").mixed == []


def test_types_rows_and_arithmetics_are_only_noted(documents):
    runs = [run_like(documents, "a"), run_like(documents, "b", method="tsqr", rows_read=499)]
    found = compare(runs)
    assert found.mixed == [] and len(found.remarks) == 2
    assert "Note: the arithmetics differ: a: gram in float64; b: tsqr in float64." in str(found)


def test_other_meanings_of_the_stored_numbers_are_told_and_older_results_took_them_as_stored(documents):
    def told(*sources):
        runs = [run_like(documents, name, source=source) for name, source in zip("ab", sources, strict=True)]
        runs = [replace(run, uri=name) for name, run in zip("ab", runs, strict=True)]
        return compare(runs).remarks

    plain, scaled = {"dtype": "int8"}, {"dtype": "int8", "decoding": "int8 * 0.5, by scale_factor"}
    assert told(plain | {"decoding": "int8 as stored: no scale is declared"}, scaled) == [
        "the meanings of the stored numbers differ: a: int8 as stored; b: int8 * 0.5, by scale_factor"
    ]
    assert told(
        {"dtype": "float16", "decoding": "float16 as stored"}, {"dtype": "float32", "decoding": "float32 as stored"}
    ) == ["the stored types differ: a: float16; b: float32"]


def test_widths_are_refused_by_the_command_with_exit_code_2(folder, tmp_path):
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).standard_normal((500, 40)))
    refused(2, "widths differ", "compare", folder / "a.npy", tmp_path / "wide.npy")


# --- where runs come from


def test_dumps_results_and_states_of_the_same_rows_give_the_same_numbers(folder, documents, tmp_path):
    rs.measure(folder / "a.npy", checkpoint=tmp_path / "a.state")
    (tmp_path / "a.json").write_text(json.dumps(documents["a"], indent=2))
    (tmp_path / "both.jsonl").write_text("\n".join(json.dumps(documents[name]) for name in "ba"))
    sources = [folder / "a.npy", tmp_path / "a.json", tmp_path / "a.state", tmp_path / "both.jsonl"]
    done = rankme("compare", *sources, "--json", "-")
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)["sweeps"][0]["runs"]
    assert [one["name"] for one in runs] == ["a.npy", "a.json", "a.state", "both.jsonl:2", "b.npy"]
    assert len({json.dumps(one["estimate"]) for one in runs[:4]}) == 1
    twice = [ComparableRun.of(documents["a"], "a.npy") for _ in range(2)]
    with pytest.raises(UsageError, match=r"a\.npy is given 2 times"):
        compare(twice)


def test_sources_without_a_result_are_left_out_and_named(folder, documents, tmp_path):
    absent = {"type": "SourceNotFoundError", "message": "there is no file absent.npy: check the path", "exit": 3}
    refused_before = {"schema_version": 1, "source": {"uri": "absent.npy"}, "error": absent}
    results = [documents["a"], refused_before, documents["b"]]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, results)))
    scores = tmp_path / "scores.csv"
    scores.write_text("source,score\na.npy,1\nabsent.npy,2\nb.npy,3\ngone.zarr,5\nc.npy,4\n")
    sources = [tmp_path / "all.jsonl", folder / "c.npy", tmp_path / "gone.zarr"]
    done = rankme("compare", *sources, "--scores", scores, "--json", tmp_path / "c.json")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 2
    found = json.loads((tmp_path / "c.json").read_text())
    left_out = ["absent.npy", str(tmp_path / "gone.zarr")]
    assert [one["source"]["uri"] for one in found["left_out"]] == left_out
    assert found["left_out"][0]["error"] == absent
    assert all(f"Left out: {uri}" in done.stdout for uri in left_out)
    assert [(one["name"], one["score"]) for one in found["sweeps"][0]["runs"]] == [
        ("a.npy", 1.0), ("b.npy", 3.0), ("c.npy", 4.0),
    ]  # fmt: skip


def test_options_that_a_metric_needs_are_added(folder):
    done = rankme("compare", folder / "h.npy", folder / "a.npy", "--metric", "dims.8.rankme", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert [one["name"] for one in json.loads(done.stdout)["sweeps"][0]["runs"]] == ["a.npy", "h.npy"]
    asked = {"normalize": False, "dims": (4,), "seed": 1}
    assert options_for("dims.8.rankme", asked) == asked | {"dims": (4, 8)}
    assert options_for("normalized.vendi", asked) == asked | {"normalize": True}
    assert options_for("presets.reptrix", asked) == asked


def test_a_metric_that_is_not_there_is_refused(documents):
    for metric in ("rank", "dims.rankme", "dims.08.rankme", "normalized.isoscore", "presets", "a.b.c", ""):
        with pytest.raises(UsageError, match="there is no metric"):
            check_metric(metric)
    runs = [run_like(documents, "a")]
    runs = [replace(runs[0], numbers={"rankme": runs[0].numbers["rankme"]})]
    for metric, option in (("normalized.vendi", "normalize"), ("dims.4.nesum", "dims 4")):
        with pytest.raises(UsageError, match=f"a has no {metric}: score it again with {option}"):
            compare(runs, metric=metric)


def test_damaged_and_foreign_results_are_refused(documents, tmp_path):
    broken = copy.deepcopy(documents["a"])
    del broken["estimates"]["rankme"]["lower"]
    for name, text, message in (
        ("broken", json.dumps(broken), "broken is damaged: estimates.rankme.lower is absent"),
        ("x.json", '{"schema_version": 1}', "x.json is not a result"),
        ("plan", '{"method": "gram"}', "plan is not a result"),
        ("y.json", "[", "y.json is neither a result nor a state"),
        ("z.json", "{", "z.json is not JSON"),
        ("empty.json", "", "empty.json is empty"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ResultError, match=message):
            entries([str(tmp_path / name)])
    with pytest.raises(SourceNotFoundError, match="no such file"):
        entries([str(tmp_path / "absent.json")])


def test_runs_are_shown_by_the_shortest_suffix_that_distinguishes_them(documents):
    uris = ["x/lr1/emb.zarr::img", "x/lr2/emb.zarr::img", "x/other.npy", "emb.zarr::img", "p/k.npy", "q/k.npy"]
    wanted = ["lr1/emb.zarr::img", "lr2/emb.zarr::img", "other.npy", "emb.zarr::img", "p/k.npy", "q/k.npy"]
    assert names_of([run_like(documents, uri) for uri in uris]) == wanted


# --- the file of scores


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,accuracy\na.npy,1\n", "has no column 'score'; its columns are source, accuracy"),
        ("", "has no column 'source'; its columns are none"),
        ("source,score\n", "no line below its header"),
        ("source,score,score\na.npy,1,2\n", "has 2 columns 'score'"),
        ("source,score\nruns/a,b.npy,1\n", "line 2 of .* has more fields than the header"),
        ("source,score\na.npy,1_0\n", "the score '1_0' is not a finite number"),
        ("source,score\na.npy,1\nb.npy,high\n", "line 3 of .*: the score 'high' is not a finite number"),
        ("source,score\na.npy,nan\n", "line 2 of .*: the score 'nan' is not a finite number"),
        ("source,score\na.npy,\n", "line 2 of .* has no score"),
        ("source,score\n,3\n", "line 2 of .* has no source"),
        ("source,score\na.npy\n", "line 2 of .* ends before the column 'score'"),
        ("source,score\na.npy,1\nb.npy,2\na.npy,3\n", "line 4 of .* names a.npy again, after line 2"),
        ("source,score,sweep\na.npy,1,x\nb.npy,2,\n", "line 3 of .* has no sweep"),
        ("source,score,hyperparameter\na.npy,1,2\nb.npy,2,\n", "line 3 of .* has no hyperparameter"),
        ('source,score\n"a.npy,1\n', "cannot be read as CSV"),
    ],
)
def test_a_file_of_scores_with_a_fault_is_refused_with_its_place(text, message, tmp_path):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(SourceFormatError, match=message):
        read_scores(str(tmp_path / "s.csv"))


def test_columns_in_any_order_and_others_beside_them_are_read(tmp_path):
    (tmp_path / "s.csv").write_bytes(b"\xef\xbb\xbfscore,note,hyperparameter,source,sweep\r\n0.5,x,1e-3, a.npy ,s\r\n")
    (one,) = read_scores(str(tmp_path / "s.csv"))
    assert (one.source, one.score, one.sweep, one.hyperparameter) == ("a.npy", 0.5, "s", 1e-3)


def score_of(source):
    return Score("line 2", source, 1.0, None, None)


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("runs/1/emb.zarr::img", 0),
        ("1/emb.zarr::img", 0),
        ("2/emb.zarr", 1),
        ("two.json", 1),
        ("emb.zarr::text", 2),
        ("./runs/1/../1/emb.zarr", 0),
        ("k.npy", 3),
    ],
)
def test_a_source_names_a_run_by_any_end_of_its_path_that_no_other_has(source, place):
    runs = [("runs/1/emb.zarr::img", "one.json"), ("runs/2/emb.zarr::img", "two.json"), ("3/emb.zarr::text", "x")]
    runs += [("k.npy", "k.npy"), ("5/k.npy", "5/k.npy")]
    rest = [score_of(uri) for k, (uri, _) in enumerate(runs) if k != place]
    assert match_scores([score_of(source), *rest], runs)[place].source == source


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            ["emb.zarr::img", "b.npy"],
            r"line 2: emb.zarr::img names 2 runs: 1/emb.zarr::img, 2/emb.zarr::img; write more",
        ),
        (["zarr::img", "b.npy"], "line 2: zarr::img names no run"),
        (["1/emb.zarr", "1/emb.zarr::img", "2/emb.zarr"], "names the run of line 2 again"),
        (["1/emb.zarr"], "2/emb.zarr::img has no line"),
    ],
)
def test_scores_that_do_not_fit_the_runs_are_refused(sources, message):
    with pytest.raises(SourceFormatError, match=message):
        match_scores(
            map(score_of, sources), [("1/emb.zarr::img", "1/emb.zarr::img"), ("2/emb.zarr::img", "2/emb.zarr::img")]
        )


def test_scores_that_do_not_fit_are_refused_before_anything_is_read(folder, tmp_path):
    (tmp_path / "s.csv").write_text("source,score\na.npy,1\nz.npy,2\n")
    refused(
        3,
        "line 3 of .*: z.npy names no run",
        "compare",
        folder / "a.npy",
        folder / "absent.npy",
        "--scores",
        tmp_path / "s.csv",
    )


def test_lidar_is_compared_at_the_same_groups_only(tmp_path):
    generator = np.random.default_rng(0)
    for name, decay in (("a", 0.2), ("b", 1.0)):
        images = generator.standard_normal((120, 8)) * np.arange(1, 9) ** -decay
        views = images.repeat(6, axis=0) + 0.1 * generator.standard_normal((720, 8))
        np.save(tmp_path / f"{name}.npy", views)
    files = [str(tmp_path / f"{name}.npy") for name in ("b", "a")]
    compared = rankme("compare", *files, "--metric", "lidar", "--group-by", "rows:6", "--json", "-")
    runs = json.loads(compared.stdout)["sweeps"][0]["runs"]
    assert [run["name"] for run in runs] == ["a.npy", "b.npy"]
    assert runs[0]["estimate"]["details"]["groups"] == 120
    done = rankme("compare", *files, "--metric", "lidar", "--quiet")
    assert done.returncode == 2 and "score it again with --group-by" in done.stderr
    for file, rows in zip(files, (6, 12), strict=True):
        rankme("score", file, "--group-by", f"rows:{rows}", "--quiet", "--json", f"{file}.json")
    results = [f"{file}.json" for file in files]
    refused(2, "the groups differ", "compare", *results, "--metric", "lidar")
