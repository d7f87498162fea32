"""What an inspection found of a source: its facts, remarks and commands, and their JSON form."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rankme_stream.errors import Spelling, in_python, worded
from rankme_stream.results.inspection_table import inspection_table

SCHEMA_VERSION = 1


class Remark(NamedTuple):
    """Fact about the rows that a reader of their score should know.

    Attributes
    ----------
    kind
        Name of the kind, such as ``unit_rows``.
    evidence
        What was seen.
    advice
        What it means, and what to do.
    refuses
        Whether ``score`` refuses such rows unless an option says otherwise.
    options
        Words of the command line that it proposes.
    when
        Condition under which they hold, where ``score`` does not need them.
    """

    kind: str
    evidence: str
    advice: str
    refuses: bool = False
    options: tuple[str, ...] = ()
    when: str = ""


class Command(NamedTuple):
    """Command line that scores the source, quoted for a shell, and when to prefer it."""

    command: str
    why: str


@dataclass(frozen=True)
class Inspection:
    """What a source is, what is remarkable about it, and how to score it.

    Attributes
    ----------
    source
        ``uri``, ``n_rows``, ``n_features``, ``dtype``, ``decoding`` (in words), ``storage`` and, of several arrays,
        ``parts``.
    integrity
        ``checksum`` of the stored chunks, or ``none``; ``chunks_missing``, ``first_missing`` and the number of rows
        from the first on (``rows_checked``) whose chunks were looked for.
    sample
        Statistics of the rows that were read; None if none was.
    reading
        ``bytes_per_second`` and ``rows_per_second`` of one thread, decoded; None where no time was taken.
    remarks
        Facts with their evidence.
    readers
        Libraries that read rows: ``name``, ``version`` (None where it is not installed) and ``extra``.
    plan, plan_refused
        Plan of a full pass, or the reason why there is none.
    full_pass
        Seconds that a full pass would take, about, and those of one thread for reading and for computing.
    remote
        ``requests`` and ``bytes`` of a full pass that a server would see, and their ``price``; None for others.
    commands
        Command to run, and alternatives.
    """

    source: Mapping[str, Any]
    integrity: Mapping[str, Any]
    sample: Mapping[str, Any] | None
    reading: Mapping[str, float] | None
    remarks: Sequence[Remark]
    readers: Sequence[Mapping[str, Any]]
    plan: Mapping[str, Any] | None
    plan_refused: str | None
    full_pass: Mapping[str, float] | None
    remote: Mapping[str, Any] | None
    commands: Sequence[Command]

    def to_dict(self, spelling: Spelling = in_python) -> dict[str, Any]:
        """Return it as JSON types, as ``docs/inspection.schema.json`` describes.

        Parameters
        ----------
        spelling
            How arguments are written in remarks: as in Python, or as on the command line.
        """
        return {
            "schema_version": SCHEMA_VERSION,
            "source": dict(self.source),
            "integrity": dict(self.integrity),
            "sample": _finite(self.sample),
            "reading": _finite(self.reading),
            "remarks": [
                {
                    "kind": one.kind, "evidence": worded(one.evidence, spelling),
                    "advice": worded(one.advice, spelling), "refuses": one.refuses, "options": list(one.options),
                }
                for one in self.remarks
            ],
            "readers": [dict(one) for one in self.readers],
            "plan": None if self.plan is None else dict(self.plan),
            "plan_refused": None if self.plan_refused is None else worded(self.plan_refused, spelling),
            "full_pass": None if self.full_pass is None else dict(self.full_pass),
            "remote": None if self.remote is None else dict(self.remote),
            "commands": [one._asdict() for one in self.commands],
        }  # fmt: skip

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return it as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        """Return the table that ``rankme inspect`` prints."""
        return inspection_table(self.to_dict())

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _finite(found: Any) -> Any:
    """Return JSON types in which infinities are strings."""
    if isinstance(found, Mapping):
        return {name: _finite(one) for name, one in found.items()}
    if isinstance(found, float) and not math.isfinite(found):
        return str(found)
    return found
