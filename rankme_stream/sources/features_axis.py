"""Which axis of a stored array is that of the features: the last, unless the caller or the names of the axes differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rankme_stream.errors import SourceFormatError, UsageError, argument

_FEATURES = re.compile(
    r"(n|num)?(band|channel|chan|feature|feat|embedding|embed|emb|hidden|latent|component|neuron|dimension|dim)s?"
    r"(dimension|dim|size|unit|state|axis|index|idx|id|name|number)?s?"
)
_ROWS = re.compile(
    r"(n|num)?(row|sample|obs|observation|pixel|point|instance|example|item|token|patch|cell|image|document|sentence|"
    r"sequence|record|entry|batch|time|location|site|station)(e?s)?(dim|size|axis|index|idx|id|name|number)?s?"
)


def axis_of_features(
    wanted: str | int | None, shape: Sequence[int], names: Sequence[str | None] | None, uri: str
) -> int:
    """Return the number of the axis of the features; the other axes are the rows.

    Parameters
    ----------
    wanted
        Its name or number, which may count from the end; None to take the last axis of two.
    shape
        Shape of the array, of two dimensions or more.
    names
        Names of the axes, as far as the metadata have them.
    uri
        Name for errors.

    Raises
    ------
    UsageError
        If there is no such axis.
    SourceFormatError
        If none is named and the array has more than two axes, or the names of two say that the features come first.
    """
    named: list[str | None] = list(names or ())
    named = named if len(named) == len(shape) else [None] * len(shape)
    if wanted is not None:
        return _named_axis(wanted, shape, named, uri)
    if len(shape) > 2:
        likely = [axis for axis, name in enumerate(named) if _is(_FEATURES, name)]
        if len(likely) == 1:
            remedy = f"such as {argument('features_axis', _option(named, likely[0]))}"
        else:
            remedy = f"by {argument('features_axis')} {_numbers(shape)}"
        raise SourceFormatError(
            f"{uri} has {_listed(shape, named)}: say which of them is the features, {remedy}; the others become rows"
        )
    first, second = named
    if _is(_FEATURES, first) and not _is(_FEATURES, second):
        why = "whose names say that the features come first"
    elif shape[0] < shape[1] and (_is(_FEATURES, first) or (_is(_ROWS, second) and not _is(_ROWS, first))):
        why = "fewer rows than features, if the features come last"
    else:
        return 1
    raise SourceFormatError(
        f"{uri} has {_listed(shape, named)}, {why}: give {argument('features_axis', _option(named, 0))}, or "
        f"{argument('features_axis', 1)} to take each entry along axis 0 as a row"
    )


def check_rows(shape: Sequence[int], uri: str, *, most_axes: int | None = None) -> None:
    """Refuse the shape of an array that is empty, or has other than two axes or more.

    Raises
    ------
    SourceFormatError
        If it is, or it has more than ``most_axes``.
    """
    remedy = ""
    if len(shape) < 2:
        remedy = "reshape it" if len(shape) else "give an array"
    elif most_axes is not None and len(shape) > most_axes:
        remedy = "move the features last and reshape it, or store it in a zarr array"
    elif 0 in shape:
        remedy = "write rows first, or leave it out"
    if remedy:
        raise SourceFormatError(
            f"{uri} has shape {tuple(shape)}; a non-empty (rows, features) array is needed: {remedy}"
        )


def _named_axis(wanted: str | int, shape: Sequence[int], names: list[str | None], uri: str) -> int:
    """Return the number of an axis that was named by the caller."""
    if isinstance(wanted, str) and names.count(wanted) == 1:
        return names.index(wanted)
    number = int(wanted) if re.fullmatch("-?[0-9]{1,3}", str(wanted)) else len(shape)
    count = names.count(wanted) if isinstance(wanted, str) else 0
    if count or not -len(shape) <= number < len(shape):
        named = f"names {count} of them" if count else "names none of them"
        raise UsageError(
            f"{uri} has {_listed(shape, names)}; {argument('features_axis')} {named}: {wanted}; give {_numbers(shape)}"
        )
    return number % len(shape)


def _numbers(shape: Sequence[int]) -> str:
    """Return the numbers of the axes in words."""
    return f"{', '.join(map(str, range(len(shape) - 1)))} or {len(shape) - 1}"


def _listed(shape: Sequence[int], names: list[str | None]) -> str:
    """Return the axes of an array in words."""
    if not any(names):
        return f"shape {tuple(shape)}, without names of its axes"
    axes = ", ".join(f"{number}: {name or 'unnamed'} ({shape[number]:,})" for number, name in enumerate(names))
    return f"the axes {axes}"


def _option(names: list[str | None], axis: int) -> str | int:
    """Return the name of an axis if it has one of its own, which can be typed as it is, or its number."""
    name = names[axis]
    return name if name and names.count(name) == 1 and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) else axis


def _is(pattern: re.Pattern[str], name: str | None) -> bool:
    """Return whether a name is one of a pattern, in any case and with any separators."""
    return name is not None and pattern.fullmatch(re.sub("[^a-z0-9]", "", name.lower())) is not None
