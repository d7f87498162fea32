"""Results in their JSON form, read back: text is parsed, and every part of a document that is used is checked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from rankme_stream.errors import ResultError
from rankme_stream.numerics.json_numbers import read
from rankme_stream.results.measurement import SCHEMA_VERSION
from rankme_stream.spectra.estimates import METRICS

Check = Callable[[Any, str], None]  # raises for a value, and the path to it in the document, that does not suit

_AGAIN = "write it again with rankme score --json"
_LARGEST = 2**64  # of whole numbers: seeds are below it, and so is all that is counted
_MOST_DIGITS = 20


def parse_results(text: str, name: str) -> list[dict[str, Any]]:
    """Return the results in a text, one document or one on each line, checked.

    Parameters
    ----------
    name
        Name of the file, for messages.

    Raises
    ------
    ResultError
        If it is not JSON, holds no result, or something in a result is absent, of another type or impossible; the
        message names the place in the document.
    """
    documents = _documents(text, name)
    if not documents:
        raise ResultError(f"{name} is empty: {_AGAIN}")
    for number, document in enumerate(documents, 1):
        _check(document, name if len(documents) == 1 else f"{name}:{number}")
    return documents


def _documents(text: str, name: str) -> list[Any]:
    try:
        return [read(text, _MOST_DIGITS)]
    except json.JSONDecodeError:
        pass  # it may hold one document on each line
    except (RecursionError, ValueError) as error:
        _refuse_text(name, error)
    try:
        return [read(line, _MOST_DIGITS) for line in text.split("\n") if line.strip()]
    except (RecursionError, ValueError) as error:
        _refuse_text(name, error)


def _refuse_text(name: str, error: Exception) -> NoReturn:
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    raise ResultError(f"{name} is not JSON that is a result: {reason}; {_AGAIN}") from None


def _check(document: Any, name: str) -> None:
    if not isinstance(document, dict) or "schema_version" not in document or "source" not in document:
        raise ResultError(f"{name} is not a result: give a file that rankme score --json wrote")
    version = document["schema_version"]
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ResultError(f"{name} is a result of version {version}, newer than this program: update rankme-stream")
    try:
        (_FAILURE if "error" in document else _result)(document, "")
    except _UnsuitableError as fault:
        raise ResultError(f"{name} is damaged: {fault}; {_AGAIN}") from None


class _UnsuitableError(Exception):
    """A value that does not suit; the text says where it stands and what should stand there."""


def _refuse(value: Any, path: str, wanted: str) -> NoReturn:
    shown = f"an object of {len(value)}" if isinstance(value, dict) else repr(value)
    raise _UnsuitableError(f"{path.removeprefix('.')} is {shown[:80]} and must be {wanted}")


def _text(value: Any, path: str) -> None:
    if not isinstance(value, str):
        _refuse(value, path, "text")


def _boolean(value: Any, path: str) -> None:
    if not isinstance(value, bool):
        _refuse(value, path, "true or false")


def _one_of(*allowed: Any) -> Check:
    def check(value: Any, path: str) -> None:
        if isinstance(value, bool) or value not in allowed:
            _refuse(value, path, " or ".join(map(repr, allowed)))

    return check


def _count(least: int = 0) -> Check:
    def check(value: Any, path: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _LARGEST:
            _refuse(value, path, f"a whole number of at least {least}")

    return check


def _number(least: float = -math.inf, most: float = math.inf) -> Check:
    def check(value: Any, path: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            _refuse(value, path, f"a number between {least:g} and {most:g}" if least > -math.inf else "a number")

    return check


def _end(value: Any, path: str) -> None:
    if value not in ("inf", "-inf") or not isinstance(value, str):
        _number()(value, path)


def _optional(check: Check) -> Check:
    def check_unless_null(value: Any, path: str) -> None:
        if value is not None:
            check(value, path)

    return check_unless_null


def _list(check: Check, *, least: int = 0, length: int | None = None) -> Check:
    def check_each(value: Any, path: str) -> None:
        if not isinstance(value, list) or len(value) < least or length not in (None, len(value)):
            _refuse(value, path, "a list" + (f" of {length}" if length else f" of at least {least}" if least else ""))
        for index, one in enumerate(value):
            check(one, f"{path}[{index}]")

    return check_each


def _object(value: Any, path: str) -> None:
    if not isinstance(value, dict):
        _refuse(value, path, "an object")


def _table(check: Check) -> Check:
    """Return the check of an object whose keys are names."""

    def check_each(value: Any, path: str) -> None:
        _object(value, path)
        for key, one in value.items():
            check(one, f"{path}.{key}")

    return check_each


def _record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Return the check of an object with given keys; others are of later versions and not looked at."""

    def check_each(value: Any, path: str) -> None:
        _object(value, path)
        for key in required:
            if key not in value:
                raise _UnsuitableError(f"{path}.{key} is absent".removeprefix("."))
        for key, check in (*required.items(), *(optional or {}).items()):
            if key in value:
                check(value[key], f"{path}.{key}")

    return check_each


_ESTIMATE_PARTS = _record(
    {
        "value": _optional(_end), "lower": _optional(_end), "upper": _optional(_end),
        "confidence": _optional(_number(0.0, 1.0)), "covers": _list(_text),
    },
    {"reason": _text, "details": _record({}, {"worst_case": _list(_end, length=2), "n_rows": _count()})},
)  # fmt: skip


def _interval(value: Any, path: str) -> None:
    """Check that the ends stand about the value, and a reason in place of a value."""
    number, lower, upper = (None if (one := value[key]) is None else float(one) for key in ("value", "lower", "upper"))
    if lower is not None and upper is not None and lower > upper:
        raise _UnsuitableError(f"{path.removeprefix('.')}.lower is {lower:g}, above upper, which is {upper:g}")
    if number is None:
        return
    if (lower is None) != (upper is None):
        raise _UnsuitableError(f"{path.removeprefix('.')} has one end of an interval and not the other")
    if lower is not None and upper is not None and not lower <= number <= upper:
        raise _UnsuitableError(f"{path.removeprefix('.')}.value is {number:g}, outside of {lower:g} to {upper:g}")


def _estimate(value: Any, path: str) -> None:
    _ESTIMATE_PARTS(value, path)
    _interval(value, path)
    if value["value"] is None and "reason" not in value:
        raise _UnsuitableError(f"{path}.reason is absent, and there is no value".removeprefix("."))


def _of_metrics(value: Any, path: str) -> None:
    """Check estimates of a spectrum by name: all metrics are there, and LiDAR has what its line of the table shows."""
    _table(_estimate)(value, path)
    _record(dict.fromkeys(METRICS, _object), {"lidar": _LIDAR})(value, path)


_LIDAR = _record(
    {
        "details": _record(
            {"groups": _count(), "rows_per_group": _list(_count(), length=2), "delta": _number()},
            {
                "over_groups": _optional(_list(_number(), length=2)),
                "over_groups_confidence": _number(0.0, 1.0),
                "rows_unlabelled": _count(),
            },
        )
    }
)
_PRESET = _record({"details": _record({"definition": _text})})
_VALUES = _list(_number(0.0))
_SIDE = ("singular_values", "lower", "upper")
_ROWS = ("nonfinite", "zero", "missing")
_SHARE = _number(0.0, 1.0)
_POINT = _record(
    {"rows": _count(1), **dict.fromkeys(("value", "lower", "upper"), _optional(_end))},
    {
        "units": _count(1), "withheld": _optional(_text), "not_excluded": _SHARE, "rows_wanted": _optional(_count(1)),
    },
)  # fmt: skip
_SAMPLING = _record(
    {
        **dict.fromkeys(("unit_rows", "units", "units_read", "rows_decoded"), _count(1)),
        "seed": _count(), "confidence": _SHARE, "population": _boolean,
    },
    {
        "estimator": _one_of("jackknife", "random-matrix"), "widened": _number(1.0),
        "rare": _record({"asked": _SHARE, "not_excluded": _SHARE, "confidence": _SHARE, "units": _count(1)}),
        "tail": _record({"index": _end, "largest": _count(), "least": _number(0.0)}),
        **dict.fromkeys(
            ("largest_replicate", "n_effective", "independent_rows", "equivalent_rows"), _optional(_number(0.0))
        ),
        "odd_chunks": _record(
            {
                "chunks": _count(1), **dict.fromkeys(("found", "read", "rows"), _count()), "largest_z": _number(0.0),
                "holds": _table(_count(1)),
                "examples": _list(_record({"rows": _list(_count(), length=2), "z": _number(), "holds": _text})),
            }
        ),
    },
)  # fmt: skip
_FAILURE = _record(
    {
        "schema_version": _one_of(SCHEMA_VERSION),
        "source": _record({"uri": _text}),
        "error": _record({"type": _text, "message": _text, "exit": _count()}),
    }
)
_PARTS = _record(
    {
        "schema_version": _one_of(SCHEMA_VERSION),
        "source": _record(
            {"uri": _text, "n_rows": _count(), "n_features": _count(1), "dtype": _text, "fingerprint": _text},
            {
                "decoding": _text, "parts": _list(_record({"name": _text, "n_rows": _count(1)})),
                "remarks": _list(_text),
                "storage": _record({"format": _text, "where": _text, "bytes": _count(1)}, {"bytes_stored": _count()}),
            },
        ),
        "rows_read": _count(), "method": _text, "precision": _text, "engine": _text, "device": _text,
        "definition": _table(_text),
        "estimates": _of_metrics, "normalized": _table(_estimate), "dims": _table(_of_metrics),
        "presets": _table(_estimate),
        "tolerance": _number(0.0), "tolerance_met": _boolean,
        "passes": _list(_record({"method": _text, "precision": _text, "half_width": _optional(_end)}), least=1),
        "convergence": _list(_POINT),
        "sampling": _optional(_SAMPLING),
        "spectrum": _record(
            {
                **{f"{prefix}{name}": _VALUES for prefix in ("", "centered_") for name in _SIDE},
                "kind": _one_of("box", "floor", "sketch"), "basis": _text, "grounds": _text,
                "confidence": _optional(_number(0.0, 1.0)),
            },
            {"energy": _list(_number(0.0), length=2), "centered_energy": _list(_number(0.0), length=2)},
        ),
        "audit": _record(
            {
                **{f"rows_{name}": _count() for name in _ROWS},
                **{f"first_{name}": _optional(_count()) for name in _ROWS},
                "chunks_missing": _count(), "integrity": _text,
            },
            {"rows_constant": _count(), "first_constant": _optional(_count())},
        ),
        "plan": _record(
            {"segments": _count(), "predicted_peak_bytes": _count()}, {"row_start": _count(), "row_stop": _count()}
        ),
        "measured": _record(
            {"elapsed_s": _number(0.0), "cpu_s": _number(0.0), "bytes_read": _count(), "peak_bytes": _count()}
        ),
        "provenance": _record({"rankme_stream": _text}, {"blas_checked": _boolean}),
    },
    {"groups": _table(_of_metrics), "remarks": _list(_text), "rules": _table(_text)},
)  # fmt: skip


def _result(document: Any, path: str) -> None:
    """Check a result, part by part and then one part against the other."""
    _PARTS(document, path)
    names = {*document["estimates"], *(f"normalized.{name}" for name in document["normalized"])}
    names |= {name for estimates in document["dims"].values() for name in estimates}
    _present(document["definition"], sorted(names), "definition")
    for name, preset in document["presets"].items():
        _PRESET(preset, f".presets.{name}")
    for d in document["dims"]:
        if not d.isdecimal() or len(d) > _MOST_DIGITS or int(d) > document["source"]["n_features"]:
            raise _UnsuitableError(f"dims has the key {d!r}, which is no number of features")
    for index, point in enumerate(document["convergence"]):
        _interval(point, f".convergence[{index}]")
    for name in _ROWS:
        if document["audit"][f"rows_{name}"] and document["audit"][f"first_{name}"] is None:
            raise _UnsuitableError(f"audit.first_{name} is absent")
    if document["rows_read"] > document["source"]["n_rows"]:
        raise _UnsuitableError("rows_read is more than the rows of the source")
    if document["sampling"] is not None:
        _present(document["plan"], ("row_start", "row_stop"), "plan")
        if document["rows_read"] == 0:
            raise _UnsuitableError("rows_read is 0, and a sample has rows")


def _present(part: Mapping[str, Any], names: Iterable[str], path: str) -> None:
    for name in names:
        if name not in part:
            raise _UnsuitableError(f"{path}.{name} is absent")
