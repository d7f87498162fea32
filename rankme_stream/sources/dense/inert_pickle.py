"""A pickle as a tree of what it describes: nothing in it is imported or called, and its size is limited."""

from __future__ import annotations

import pickletools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LARGEST_PICKLE = 16 * 2**20  # bytes
_MOST_STEPS = 500_000  # each may make an object of 100 bytes and more
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    "BINFLOAT", "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MAPPINGS = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"}
_MARK = object()


@dataclass(frozen=True, eq=False)
class Named:
    """Class or function that a pickle names."""

    name: str


@dataclass(frozen=True, eq=False)
class Called:
    """What a class or function would return for these arguments."""

    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Persistent:
    """Object that lies outside the pickle, by what names it."""

    key: Any


class PickleError(ValueError):
    """Pickle that is damaged, too large, or needs more than tensors do; the text says which."""


def tree_of(pickled: bytes, allowed: re.Pattern[str]) -> Any:
    """Return what a pickle describes: dicts with keys of text and integers, lists, tuples and scalars; others inert.

    Sets become empty lists, and states that objects would be given are left out.

    Parameters
    ----------
    allowed
        Pattern of the whole names of classes and functions that it may name; they are not looked up.

    Raises
    ------
    PickleError
        If it is damaged, too large, or names or uses what no writer of tensors does.
    """
    if len(pickled) > LARGEST_PICKLE:
        raise PickleError(f"it has {len(pickled):,} bytes, and {LARGEST_PICKLE:,} are read")
    machine = _Machine(allowed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of backslashes in text of a damaged file
            for n_steps, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
                if n_steps >= _MOST_STEPS:
                    raise PickleError(f"it describes more than {_MOST_STEPS:,} things")
                machine.step(opcode.name, argument)
        (result,) = machine.stack
        if result is _MARK:
            raise ValueError("it describes nothing")
    except PickleError:
        raise
    except (ValueError, LookupError, TypeError) as error:
        raise PickleError(f"it is damaged ({str(error)[:200] or type(error).__name__})") from None
    return result


class _Machine:
    """Stack and memory of a pickle."""

    def __init__(self, allowed: re.Pattern[str]) -> None:
        self.stack: list[Any] = []
        self._allowed = allowed
        self._memory: dict[int, Any] = {}
        self._steps: dict[str, Callable[[], None]] = {
            "MARK": lambda: self.stack.append(_MARK), "POP": lambda: self._pop(), "POP_MARK": self._drop_marked,
            "DUP": lambda: self.stack.append(self.stack[-1]), "TUPLE": lambda: self.stack.append(tuple(self._marked())),
            "LIST": lambda: self.stack.append(self._marked()), "DICT": self._dict, "APPEND": self._append,
            "APPENDS": lambda: self._extend(self._marked()), "SETITEM": self._set_item, "ADDITEMS": self._drop_marked,
            "SETITEMS": lambda: self._set(self._marked()), "REDUCE": self._reduce, "NEWOBJ": self._reduce,
            "BUILD": lambda: self._pop(), "BINPERSID": lambda: self.stack.append(Persistent(self._pop())),
            "STACK_GLOBAL": self._named, "MEMOIZE": lambda: self._keep(len(self._memory)),
            "PROTO": lambda: None, "FRAME": lambda: None, "STOP": lambda: None,
        }  # fmt: skip

    def step(self, name: str, argument: Any) -> None:
        """Carry out an operation."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self.stack.append(tuple([self._pop() for _ in range(_TUPLES[name])][::-1]))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._keep(argument)
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self._memory[argument])
        elif name == "GLOBAL":
            self._name(argument.replace(" ", "."))
        elif name in self._steps:
            self._steps[name]()
        else:
            raise PickleError(f"it has the operation {name}, which files of tensors lack")

    def _pop(self) -> Any:
        if self.stack[-1] is _MARK:
            raise ValueError("an operation lacks its operand")
        return self.stack.pop()

    def _marked(self) -> list[Any]:
        """Remove and return what stands above the last mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("an operation lacks its mark")
        marked = self.stack[at + 1 :]
        del self.stack[at:]
        return marked

    def _keep(self, number: int) -> None:
        self._memory[number] = self.stack[-1]

    def _dict(self) -> None:
        pairs = self._marked()
        self.stack.append({})
        self._set(pairs)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _set(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict | Called):
            raise ValueError("an item is set in what is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if isinstance(target, dict) and isinstance(key, str | int):
                target[key] = value

    def _append(self) -> None:
        value = self._pop()
        self._extend([value])

    def _drop_marked(self) -> None:
        self._marked()

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list | Called):
            raise ValueError("an item is added to what is no list")
        if isinstance(target, list):
            target.extend(values)

    def _named(self) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("a name is no text")
        self._name(f"{module}.{name}")

    def _name(self, name: str) -> None:
        if self._allowed.fullmatch(name) is None:
            raise PickleError(f"it names {name[:200]}, which could run code")
        self.stack.append(Named(name))

    def _reduce(self) -> None:
        arguments, target = self._pop(), self._pop()
        if not isinstance(target, Named) or not isinstance(arguments, tuple):
            raise ValueError("what is called is no name")
        is_mapping = target.name in _MAPPINGS and all(isinstance(one, Named) for one in arguments)
        self.stack.append({} if is_mapping else Called(target.name, arguments))
