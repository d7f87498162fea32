"""Runs in the order of one metric: which of them intervals cannot tell apart, and which one a rule selects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product
from string import ascii_lowercase
from typing import Literal

from rankme_stream.results.comparable_run import Number


@dataclass(frozen=True)
class Standing:
    """One run in a ranking.

    Attributes
    ----------
    rank
        1 and the number of runs with a larger value; None without a value.
    groups
        Letters: two runs have one in common where their intervals overlap, and only there. None for a run whose
        interval overlaps no other's.
    overlaps
        Names of the runs whose intervals overlap this one's.
    is_tied_with_best
        Whether the interval reaches that of the largest value; true of the largest value.
    """

    name: str
    number: Number
    rank: int | None
    groups: tuple[str, ...]
    overlaps: tuple[str, ...]
    is_tied_with_best: bool


def ranked(numbers: Mapping[str, Number]) -> list[Standing]:
    """Return runs by falling value, equal ones in the order given, those without a value last.

    Parameters
    ----------
    numbers
        A metric of every run, by name.

    Notes
    -----
    Overlapping is no equivalence: a may overlap b and b c, and a lies above c. So groups are the largest sets of runs
    of which every two overlap, as in a compact letter display (Piepho, J. Comput. Graph. Stat. 13, 2004). All intervals
    of such a set have a point in common (Helly), the largest of their lower ends, so there is at most one group a run.
    O(n^3) for n runs in the worst case.
    """
    with_value = sorted(
        (name for name, number in numbers.items() if number.value is not None),
        key=lambda name: -_value(numbers[name]),
    )
    best = [name for name in with_value if numbers[name].value == numbers[with_value[0]].value]
    values = [_value(numbers[name]) for name in with_value]
    letters: dict[str, list[str]] = {name: [] for name in with_value}
    for letter, group in zip(_letters(), _groups([numbers[name] for name in with_value]), strict=False):
        for place in group:
            letters[with_value[place]].append(letter)
    standings = [
        Standing(
            name,
            numbers[name],
            1 + values.index(value),
            tuple(letters[name]),
            tuple(other for other in with_value if other != name and numbers[other].overlaps(numbers[name])),
            any(numbers[name].overlaps(numbers[one]) for one in best),
        )
        for name, value in zip(with_value, values, strict=True)
    ]
    rest = (name for name in numbers if name not in letters)
    return [*standings, *(Standing(name, numbers[name], None, (), (), False) for name in rest)]


def _value(number: Number) -> float:
    assert number.value is not None
    return number.value


def _groups(numbers: Sequence[Number]) -> list[list[int]]:
    """Return the largest sets of two numbers or more of which every two overlap, the best first."""
    at_ends = {
        frozenset(place for place, other in enumerate(numbers) if other.lower <= one.lower <= other.upper)
        for one in numbers
    }
    largest = [group for group in at_ends if len(group) > 1 and not any(group < other for other in at_ends)]
    return sorted(sorted(group) for group in largest)


def _letters() -> Iterator[str]:
    """Yield a, b, ..., z, aa, ab, ..."""
    for length in count(1):
        yield from map("".join, product(ascii_lowercase, repeat=length))


@dataclass(frozen=True)
class Selection:
    """What a rule selects.

    Attributes
    ----------
    names
        The run selected, and after it those that the rule cannot prefer it to.
    tied
        Runs whose intervals reach that of the largest value, that one included.
    decided_by
        ``interval`` where one run lies above all others; ``hyperparameter`` where the smallest one of those that are
        tied decides; ``value`` where they have none, or several have the smallest; ``order`` where even the values are
        equal, and the first one named is taken.
    """

    names: tuple[str, ...]
    tied: tuple[str, ...]
    decided_by: Literal["interval", "hyperparameter", "value", "order"]


def select_highest(standings: Sequence[Standing], hyperparameters: Mapping[str, float] | None) -> Selection | None:
    """Return the run of the highest value, and among those that are tied with it that of the smallest hyperparameter.

    Parameters
    ----------
    standings
        From ``ranked``.
    hyperparameters
        Of every run; None where there are none.

    Returns
    -------
    Selection or None
        None where no run has a value.

    References
    ----------
    Garrido et al., ICML 2023, arXiv 2210.02885, figure 4: the highest rank or, where several reach it, the smallest or
    the largest hyperparameter. Here runs reach it when their intervals do.
    """
    tied = [one for one in standings if one.is_tied_with_best]
    if not tied:
        return None
    names = tuple(one.name for one in tied)
    if len(tied) == 1:
        return Selection(names, names, "interval")
    left = tied
    if hyperparameters is not None:
        smallest = min(hyperparameters[name] for name in names)
        left = [one for one in tied if hyperparameters[one.name] == smallest]
        if len(left) == 1:
            return Selection((left[0].name,), names, "hyperparameter")
    best = [one.name for one in left if one.rank == left[0].rank]
    return Selection(tuple(best), names, "value" if len(best) == 1 else "order")
