"""Values of options that break programs: each is refused in one line, or means what it says."""

from __future__ import annotations

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.cli.commands import cli, run
from rankme_stream.errors import SourceFormatError, UsageError
from tests.command_line import rankme

LONG = "9" * 5000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.random.default_rng(0).standard_normal((60, 4)))
    return tmp_path


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ["--memory", "9" * 320], "is not a size"),
        (2, ["--memory", LONG], "is not a size"),
        (2, ["--memory", "0.1"], "is not a size"),
        (2, ["--memory", "10"], "'10' is 10 bytes; write 10GiB"),
        (2, ["--group-by", "rows:99999999999999999999"], "--group-by is 'rows:99999999999999999999'"),
        (2, ["--tolerance", "inf"], "--tolerance is inf and must be finite and above 0"),
        (2, ["--tolerance", "0"], "must be finite and above 0"),
        (2, ["--tolerance", "nan"], "--tolerance"),
        (2, ["--sample", "--confidence", "0.9999999999999999"], "--confidence"),
        (2, ["--rows", f"{LONG}:"], "is not a row range"),
        (2, ["--rows", "9223372036854775808:"], "the start of --rows is 9223372036854775808 and must be below 2^63"),
        (2, ["--dims", LONG], "is not a list of widths"),
        (2, ["--seed", LONG], "--seed"),
        (2, ["--workers", "9223372036854775808"], "--workers is 9223372036854775808 and must be below 2^63"),
        (2, ["--sample", "--rare", "1"], "'1' is not above 0 and at most 50%; write for example 1% or 0.01"),
        (2, ["--sample", "--rare", "0%"], "'0%' is not above 0 and at most 50%"),
        (2, ["--sample", "--rare", "50.1%"], "'50.1%' is not above 0 and at most 50%"),
        (2, ["--sample", "--rare", "one%"], "'one%' is not a share; write for example 1% or 0.01"),
        (2, ["--sample", "--rare", "%"], "'%' is not a share"),
        (2, ["--sample", "--rare", LONG], "is not a share"),
        (2, ["--max-rows", "5"], "--max-rows limits a sample: pass --sample as well"),
        (2, ["--method", "gram", "--rank", "3"], "--rank is the size of a sketch: pass --method"),
        (2, ["--json", ""], "--json is '' and must name a file"),
        (5, ["--json", "a" * 300], "File name too long; give another file for --json"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_in_one_line(folder, capsys, code, arguments, message):
    assert run(["score", "a.npy", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rankme: error: ") and err.count("\n") == 1
    assert message in err


def test_python_names_its_own_arguments(folder):
    for options, message in (
        ({"tolerance": np.inf}, "^tolerance is inf"),
        ({"tolerance": 10**5000}, "^tolerance is too long a number"),
        ({"confidence": 1.0 - 1e-9}, "^confidence is 0.9999.* and must be 0.999999 at most"),
        ({"memory_limit": 10**320}, "^memory_limit is too long a number and must be below 2.63"),
        ({"rows": (10**30, None)}, "^the start of rows is 1000.* and must be below 2.63"),
        ({"workers": 2**63}, "^workers is .* and must be below 2.63"),
        ({"dims": 5}, "^dims is 5 and must be a sequence of widths"),
        ({"dims": "64"}, "^dims is '64' and must be a sequence of widths"),
        ({"engine": "dask", "sample": True}, 'drop engine="dask", or drop sample$'),
    ):
        with pytest.raises(UsageError, match=message):
            rs.measure("a.npy", **options)


def test_an_error_of_every_source_is_told_once(folder):
    done = rankme("score", "a.npy", "./a.npy", "--tolerance", "0", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_an_option_that_changes_nothing_is_noted(folder, capsys):
    assert run(["score", "a.npy", "--seed", "3", "--oversampling", "4"]) == 0
    assert capsys.readouterr().err == (
        "rankme: note: --seed changes nothing about this pass\n"
        "rankme: note: --oversampling changes nothing about this pass\n"
    )
    assert run(["score", "a.npy", "--precision", "float32", "--tolerance", "1", "--seed", "3"]) == 0
    assert run(["score", "a.npy", "--seed", "3", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_share_is_a_number_or_per_cent(folder, capsys):
    for text in ("0.01", "1%", " 2.5 % ", ".5", "50%"):
        assert run(["score", "a.npy", "--rare", text]) == 0
        assert capsys.readouterr().err == "rankme: note: --rare changes nothing about this pass\n"
    (option,) = (one for one in cli.commands["score"].params if one.name == "rare")
    for text, share in (("1%", 0.01), ("2.5 %", 0.025), (".125", 0.125)):
        assert option.type.convert(text, option, None) == share


@pytest.mark.parametrize("label", ["a\ud800", "\udcff"])
def test_labels_that_are_no_text_are_refused(folder, label):
    with pytest.raises(SourceFormatError, match=r"code point 0xd[8c].*, which is no character"):
        rs.measure("a.npy", groups=np.array([label] * 30 + ["b"] * 30))


def test_labels_beyond_unicode_are_refused_and_long_ones_are_names(folder):
    beyond = np.full(60, 0x110005, np.uint32).view("<U1")
    with pytest.raises(SourceFormatError, match="code point 0x110005"):
        rs.measure("a.npy", groups=beyond)
    names = ["1" * 5000, "2"]
    assert {*rs.measure("a.npy", groups=np.repeat(names, 30)).groups} == {*names}


def test_one_run_by_two_names_is_refused(folder, capsys):
    assert run(["compare", "a.npy", "./a.npy"]) == 2
    assert "./a.npy is given twice, the other time as a.npy" in capsys.readouterr().err
