"""Reading the data out of a pickle without running it: lists, dicts, texts, whole numbers and uint8 arrays, nothing else.

The public Python archives of CIFAR are pickles of protocol 2. A pickle is a program for a stack machine that may call
anything; here its opcodes are listed by `pickletools.genops`, which runs nothing, and those that plain data needs are
carried out. Two names are known, numpy's array and dtype, and both are answered by own code.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_MEMBERS = 5_000_000
"""Opcodes of the largest file that is read; CIFAR-100 has about half a million."""
NUMBERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1"})
TEXTS = frozenset({"SHORT_BINSTRING", "BINSTRING", "BINUNICODE"})
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
ARRAY_NAMES = frozenset({"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"})
NAMES = ARRAY_NAMES | {"numpy ndarray", "numpy dtype"}
BYTE_TYPES = frozenset({"u1", "|u1"})


class PlainPickleError(ValueError):
    """The pickle holds something else than plain data, or is broken; the message says what."""


@dataclass(frozen=True)
class _Name:
    """A name the pickle asked for; it stands for nothing but itself."""

    text: str


@dataclass
class _Made:
    """What a call gave: an array or dtype whose state comes later."""

    kind: str
    value: np.ndarray[Any, Any] | None = None


class _Mark:
    pass


def read_plain_pickle(data: bytes) -> object:
    """The object in a pickle of plain data: dict, list, str (bytes texts as Latin-1), int, bool, None or a uint8
    array. Raises PlainPickleError on every opcode, name or call beyond those, and on a broken file.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # genops decodes texts with escapes before their opcode can be refused, and Python warns of a bad escape.
            warnings.simplefilter("error", DeprecationWarning)
            for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
                if count > MAX_MEMBERS:
                    raise PlainPickleError(f"it has more than {MAX_MEMBERS} members")
                if opcode.name == "STOP":
                    return machine.result()
                machine.step(opcode.name, argument, position or 0)
    except PlainPickleError:
        raise
    except DeprecationWarning as problem:
        raise PlainPickleError(f"it is broken ({problem})") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, AssertionError) as problem:
        raise PlainPickleError(f"it is broken ({type(problem).__name__}: {problem})") from None
    raise PlainPickleError("it ends before its end mark")


class _Machine:
    """The stack machine of pickle protocol 2, limited to plain data."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.actions: dict[str, Callable[[Any], None]] = {
            "PROTO": self._protocol,
            "MARK": lambda _: self.stack.append(_Mark()),
            "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_DICT": lambda _: self.stack.append({}),
            "TUPLE": lambda _: self.stack.append(tuple(self._to_mark())),
            "APPEND": lambda _: self._extend([self.stack.pop()]),
            "APPENDS": lambda _: self._extend(self._to_mark()),
            "SETITEM": lambda _: self._update([self.stack.pop(-2), self.stack.pop()]),
            "SETITEMS": lambda _: self._update(self._to_mark()),
            "BINPUT": self._remember,
            "LONG_BINPUT": self._remember,
            "BINGET": lambda key: self.stack.append(self.memo[key]),
            "LONG_BINGET": lambda key: self.stack.append(self.memo[key]),
            "GLOBAL": self._name,
            "REDUCE": lambda _: self._call(),
            "BUILD": lambda _: self._build(),
        }

    def step(self, name: str, argument: Any, position: int) -> None:
        """Carry out one opcode."""
        if name in NUMBERS or name in TEXTS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in TUPLES:
            self._tuple(TUPLES[name])
        elif name in self.actions:
            self.actions[name](argument)
        else:
            raise PlainPickleError(f"opcode {name} at byte {position} is not plain data")

    def result(self) -> object:
        """What is left at the end mark. Raises PlainPickleError unless it is one finished object."""
        if len(self.stack) != 1:
            raise PlainPickleError(f"it leaves {len(self.stack)} objects instead of one")
        return _finished(self.stack[0])

    def _protocol(self, version: int) -> None:
        if version != 2:
            raise PlainPickleError(f"it is of protocol {version}; only 2 is read")

    def _remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def _to_mark(self) -> list[Any]:
        place = max(i for i, item in enumerate(self.stack) if isinstance(item, _Mark))
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _tuple(self, size: int) -> None:
        start = len(self.stack) - size
        if start < 0 or any(isinstance(item, _Mark) for item in self.stack[start:]):
            raise PlainPickleError("a tuple lacks members")
        self.stack[start:] = [tuple(self.stack[start:])]

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise PlainPickleError("members are added to what is no list")
        self.stack[-1].extend(_finished(item) for item in items)

    def _update(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(items) % 2:
            raise PlainPickleError("entries are added to what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise PlainPickleError(f"a key is a {type(key).__name__}, not a text")
            self.stack[-1][key] = _finished(value)

    def _name(self, text: str) -> None:
        if text not in NAMES:
            raise PlainPickleError(f"it asks for {text.replace(' ', '.')!r}, which plain data does not need")
        self.stack.append(_Name(text))

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise PlainPickleError("it calls something that is no known name")
        if function.text in ARRAY_NAMES and arguments[0] == _Name("numpy ndarray"):
            self.stack.append(_Made("array"))
        elif function.text == "numpy dtype" and arguments[0] in BYTE_TYPES:
            self.stack.append(_Made("dtype"))
        else:
            raise PlainPickleError(f"it calls {function.text.replace(' ', '.')} for something else than uint8 arrays")

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, _Made) or not isinstance(state, tuple):
            raise PlainPickleError("it sets the state of something that is no array")
        if target.kind == "dtype":
            return  # Byte order and alignment, which single bytes do not have.
        _, shape, dtype, by_column, text = state
        if not isinstance(dtype, _Made) or dtype.kind != "dtype" or not isinstance(text, str):
            raise PlainPickleError("an array is not of uint8")
        # bool is an int: a shape of True is refused with the rest.
        if not isinstance(shape, tuple) or any(type(side) is not int or side < 0 for side in shape):
            raise PlainPickleError(f"an array has the shape {shape!r}")
        raw = text.encode("latin-1")
        if math.prod(shape) != len(raw):
            raise PlainPickleError(f"an array of shape {shape} has {len(raw)} bytes")
        target.value = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_column is True else "C")


def _finished(item: Any) -> Any:
    """The object itself, an array for its making. Raises PlainPickleError on what is not plain data."""
    if isinstance(item, _Made) and item.value is not None:
        return item.value
    if isinstance(item, _Made | _Name | _Mark | tuple):
        raise PlainPickleError("it keeps a tuple, a name or an unfinished array as data")
    return item
