"""Ranking of runs by one metric: sets of runs whose intervals overlap, and the run that a rule selects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product
from string import ascii_lowercase
from typing import Literal

from rankme_stream.results.comparable_run import Number


@dataclass(frozen=True)
class Standing:
    """Run in a ranking.

    Attributes
    ----------
    rank
        1 plus the number of runs with a larger value; None without a value.
    sets
        Letters of the sets that it is in: two runs share a letter if and only if their intervals overlap. Empty for a
        run whose interval overlaps no other's.
    overlaps
        Names of the runs whose intervals overlap this one's.
    is_tied_with_best
        Whether the interval overlaps that of the largest value; True for the largest value itself.
    """

    name: str
    number: Number
    rank: int | None
    sets: tuple[str, ...]
    overlaps: tuple[str, ...]
    is_tied_with_best: bool


def ranked(numbers: Mapping[str, Number]) -> list[Standing]:
    """Return runs by descending value, equal ones in the order given, those without a value last.

    Parameters
    ----------
    numbers
        Metric of every run, by name.

    Notes
    -----
    Overlap is not an equivalence relation: a may overlap b, and b may overlap c, with a above c. So the sets are the
    largest in which every two runs overlap, as in a compact letter display (Piepho, J. Comput. Graph. Stat. 13, 2004).
    All intervals of such a set have a point in common (Helly), the largest of their lower ends, so there are at most as
    many sets as runs. O(n^3) for n runs in the worst case.
    """
    with_value = sorted(
        (name for name, number in numbers.items() if number.value is not None),
        key=lambda name: -_value(numbers[name]),
    )
    best = [name for name in with_value if numbers[name].value == numbers[with_value[0]].value]
    values = [_value(numbers[name]) for name in with_value]
    letters: dict[str, list[str]] = {name: [] for name in with_value}
    for letter, members in zip(_letters(), _overlapping_sets([numbers[name] for name in with_value]), strict=False):
        for index in members:
            letters[with_value[index]].append(letter)
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


def _overlapping_sets(numbers: Sequence[Number]) -> list[list[int]]:
    """Return the largest sets, of two numbers or more, in which every two overlap; the best first."""
    at_ends = {
        frozenset(index for index, other in enumerate(numbers) if other.lower <= one.lower <= other.upper)
        for one in numbers
    }
    largest = [members for members in at_ends if len(members) > 1 and not any(members < other for other in at_ends)]
    return sorted(sorted(members) for members in largest)


def _letters() -> Iterator[str]:
    """Yield a, b, ..., z, aa, ab, ..."""
    for length in count(1):
        yield from map("".join, product(ascii_lowercase, repeat=length))


@dataclass(frozen=True)
class Selection:
    """Selection of a run by a rule.

    Attributes
    ----------
    names
        Run selected, followed by those that the rule cannot distinguish from it.
    tied
        Runs whose intervals overlap that of the largest value, that one included.
    decided_by
        ``interval`` if one run lies above all others; ``hyperparameter`` if the smallest one among the tied runs
        decides; ``value`` if they have none, or several have the smallest; ``order`` if even the values are equal, and
        the first one named is taken.
    """

    names: tuple[str, ...]
    tied: tuple[str, ...]
    decided_by: Literal["interval", "hyperparameter", "value", "order"]


def select_highest(standings: Sequence[Standing], hyperparameters: Mapping[str, float] | None) -> Selection | None:
    """Return the run of the highest value or, among those tied with it, that of the smallest hyperparameter.

    Parameters
    ----------
    standings
        Ranking by ``ranked``.
    hyperparameters
        Hyperparameter of every run, by name; None where there are none.

    Returns
    -------
    Selection or None
        None where no run has a value.

    References
    ----------
    Garrido et al., ICML 2023, arXiv 2210.02885, figure 4: the highest rank or, where several reach it, the smallest or
    the largest hyperparameter. Here a run reaches the highest rank when its interval overlaps that of the highest.
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
