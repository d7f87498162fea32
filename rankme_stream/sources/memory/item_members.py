"""The member of a tuple, a dict, a frame or a data set that holds the rows: named by ``key``, or the only one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankme_stream.errors import SourceFormatError, UsageError
from rankme_stream.numerics.devices.device import Adopted
from rankme_stream.numerics.devices.registry import is_array

_LISTED = 8  # names in a message


def chosen_member(things: Mapping[Any, Any] | Any, names: Sequence[Any], key: str | int | None, uri: str) -> Any:
    """Return the member of a name, or the only one.

    Parameters
    ----------
    things
        What the members are looked up in.
    names
        Names of the members.

    Raises
    ------
    UsageError
        If there is none of that name, or several.
    SourceFormatError
        If none is named, and there are several or none.
    """
    if key is None and len(names) == 1:
        return things[names[0]]
    if key is None:
        raise SourceFormatError(f"{uri} has {_listed(names)}: name the one that holds the rows, {_example(names)}")
    if list(names).count(key) != 1:
        raise UsageError(f"key is {key!r}, and {uri} has {_listed(names)}")
    return things[key]


def member_of(item: Any, key: str | int | None, uri: str) -> tuple[Any, str | int | None]:
    """Return what of an item of an iterable holds the rows, and the key if it names something inside of that.

    Members are those of a dict, of a tuple, and of a list that holds arrays, as a loader makes of tuples.

    Raises
    ------
    UsageError, SourceFormatError
        As ``chosen_member``.
    """
    if isinstance(item, Adopted):  # a tuple, too
        return item, key
    if isinstance(item, Mapping):
        return chosen_member(item, list(item), key, uri), None
    if isinstance(item, list | tuple) and (key is not None or any(map(_is_member, item))):
        fields = getattr(item, "_fields", ())
        number = fields.index(key) if key in fields else key
        return chosen_member(item, range(len(item)), number, uri), None
    return item, key


def _is_member(thing: Any) -> bool:
    """Return whether a thing is more than a number or numbers in lists."""
    return is_array(thing) or isinstance(thing, str | bytes | Mapping) or hasattr(thing, "shape")


def refuse_key(key: str | int | None, uri: str) -> None:
    """Refuse a key for rows that have no members.

    Raises
    ------
    UsageError
        If one is given.
    """
    if key is not None:
        raise UsageError(f"key names a column or a member, and {uri} has none: leave it out")


def _listed(names: Sequence[Any]) -> str:
    """Return the names of members in words."""
    if isinstance(names, range):
        return f"{len(names)} members" if len(names) != 1 else "1 member"
    shown = ", ".join(repr(name) for name in names[:_LISTED])
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"the members {shown}{more}" if names else "no members"


def _example(names: Sequence[Any]) -> str:
    return f"such as key={names[0]!r}" if len(names) else "once there are some"
