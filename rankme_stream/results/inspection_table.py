"""An inspection as a table of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from rankme_stream.errors import counted, printable
from rankme_stream.results.table import bytes_text, source_lines, what_it_is

_WIDTH = 110  # characters of a line of remarks
_NO_VERSION = "not installed"


def inspection_table(found: Mapping[str, Any]) -> str:
    """Return an inspection in its JSON form as a table of text."""
    source = found["source"]
    facts = [("values", source["decoding"]), *source["storage"]["facts"].items(), *_facts(found)]
    width = max(len(label) for label, _ in facts)
    lines = [printable(source["uri"]), what_it_is(source), *source_lines(source | {"decoding": ""}), ""]
    lines += [f"  {printable(label):<{width}}  {printable(words)}" for label, words in facts]
    lines += _remark_lines(found["remarks"])
    lines += ["", "  To score it:"]
    for number, one in enumerate(found["commands"]):
        why = f"  # {one['why']}" if one["why"] else ""
        lines.append(f"    {printable(one['command'])}{why if number else ''}")
    return "\n".join(lines)


def _facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the label and the words of each fact that was found."""
    yield "integrity", _integrity(found)
    if (sample := found["sample"]) is not None:
        yield "sample", _sample(found["source"], sample)
        yield from _statistics(sample)
    if (reading := found["reading"]) is not None:
        speed = f"{bytes_text(reading['bytes_per_second'])}/s, {reading['rows_per_second']:,.0f} rows/s"
        yield "reading", f"{speed} of one thread, decoded, as measured just now"
    if (whole := found["full_pass"]) is not None:
        threads = counted(found["plan"]["workers"], "thread")
        total, reading_s, computing_s = (_seconds(whole[name]) for name in ("seconds", "reading_s", "computing_s"))
        yield "full pass", f"about {total} on {threads}: reading {reading_s} and computing {computing_s} of one"
    if (plan := found["plan"]) is not None:
        yield (
            "plan",
            (
                f"{plan['method']} in {plan['precision']}, {counted(plan['workers'], 'worker')}, "
                f"{bytes_text(plan['predicted_peak_bytes'])} of memory predicted, limit "
                f"{bytes_text(plan['memory_limit_bytes'])}"
            ),
        )
    if found["plan_refused"] is not None:
        yield "plan", f"none: {found['plan_refused']}"
    if (remote := found["remote"]) is not None:
        price = "" if remote["price"] is None else f", price {remote['price']:,.3g}"
        yield (
            "server",
            f"a full pass takes about {remote['requests']:,} requests and {bytes_text(remote['bytes'])}{price}",
        )
    yield "readers", _readers(found["readers"])


def _integrity(found: Mapping[str, Any]) -> str:
    integrity = found["integrity"]
    checksum = "no checksum" if integrity["checksum"] == "none" else f"checked by {integrity['checksum']}"
    n_missing, n_checked = integrity["chunks_missing"], integrity["rows_checked"]
    missing = "no chunk is missing" if not n_missing else f"{counted(n_missing, 'chunk')} missing"
    if n_checked < found["source"]["n_rows"]:
        missing += f" in the first {n_checked:,} rows, and no others were looked for"
    return f"{checksum}; {missing}"


def _sample(source: Mapping[str, Any], sample: Mapping[str, Any]) -> str:
    what = "every row" if sample["rows"] == source["n_rows"] else f"{sample['rows']:,} rows"
    return (
        f"{what}, in {counted(sample['blocks'], 'block')}, {bytes_text(sample['bytes_decoded'])} decoded in "
        f"{_seconds(sample['seconds'])}"
    )


def _statistics(sample: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if (lengths := sample["lengths"]) is not None:
        least, q1, median, q3, most = (f"{float(lengths[name]):.4g}" for name in ("min", "q1", "median", "q3", "max"))
        yield "lengths", f"median {median}, half of them {q1} to {q3}, all {least} to {most}"
    if (cosines := sample["cosines"]) is not None:
        near = cosines["neighbours"]
        beside = "" if near["mean"] is None else f"; of {near['pairs']:,} neighbours {_cosine(near['mean'])}"
        yield "cosines", f"mean {_cosine(cosines['mean'])} of all pairs of {cosines['rows']:,} rows{beside}"


def _readers(readers: Any) -> str:
    here = ", ".join(f"{one['name']} {one['version']}" for one in readers if one["version"] is not None)
    absent = {one["extra"] for one in readers if one["version"] is None}
    if not absent:
        return here
    extras = ",".join(sorted(absent))
    names = ", ".join(one["name"] for one in readers if one["version"] is None)
    return f"{here}; {_NO_VERSION}: {names} (pip install 'rankme-stream[{extras}]')"


def _remark_lines(remarks: Any) -> list[str]:
    if not remarks:
        return ["", "  Nothing remarkable was found in what was read."]
    lines = ["", "  Remarks"]
    for one in remarks:
        refused = "`score` refuses such rows. " if one["refuses"] else ""
        text = printable(f"{one['evidence'][:1].upper()}{one['evidence'][1:]}. {refused}{one['advice']}.")
        lines += wrap(text, _WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)
    return lines


def _cosine(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # not -0.000


def _seconds(seconds: float) -> str:
    if seconds < 0.01:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
