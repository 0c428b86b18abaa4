"""From a nested dict to frozen dataclasses and back: every mistake is named by its dotted path, with the nearest valid name."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import re
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")


LONGEST_MESSAGE, LONGEST_VALUE = 4000, 300
"""Letters of an error, and of a value in one: what is quoted may be as long as a hostile file likes."""
MOST_MEMBERS = 1000
"""Members of a list or mapping of settings."""
LARGEST = 2**63 - 1
"""Whole numbers beyond this are no sizes, counts or seeds of any library below."""
MOST_COUNT, MOST_FLOAT = 10**9, 1e30
"""Bounds of what has none of its own below: counts, which loops and lists are made of, and numbers, kept in 32 bits."""
BOUNDS: tuple[tuple[re.Pattern[str], float], ...] = (
    (re.compile(r"seeds?$"), LARGEST),
    (re.compile(r"width|channels|hidden|_dim$"), 2**18),
    (re.compile(r"(batch|block)_size$"), 2**20),
    (re.compile(r"factors?$"), 10**6),
)
"""What a setting may be at most, by the end of its name. Generous: beyond it no machine goes, and libraries fail in their own
words, or only after minutes."""


class ConfigError(ValueError):
    """A setting is unknown, missing, mistyped or out of range; the message names its dotted path and the cure."""

    def __init__(self, message: object = "") -> None:
        super().__init__(shortened(str(message), LONGEST_MESSAGE))


def shortened(text: str, most: int) -> str:
    """A text of at most so many letters: of a longer one the beginning and the end, where a message names its cure."""
    if len(text) <= most:
        return text
    tail = most // 4
    return f"{text[: most - tail - 5]} ... {text[-tail:]}"


class _Short(reprlib.Repr):
    """Python's own words for a value, cut where they are long, however large and deep it is."""

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= 256 else f"a whole number of {x.bit_length()} bits"


_SHORT = _Short()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 5, LONGEST_VALUE, LONGEST_VALUE
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = 20


def require(condition: bool, name: str, rule: str, value: object) -> None:
    """Raise ConfigError "<name> must be <rule>, but is <value>" unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name} must be {rule}, but is {in_words(value)}")


def check_milestones(shares: tuple[float, ...], schedule: str, name: str) -> None:
    """Raise ConfigError unless the milestones are shares of the steps, given for the schedule multistep and no other."""
    require(all(0 < share < 1 for share in shares), name, "between 0 and 1", list(shares))
    require(list(shares) == sorted(set(shares)), name, "rising shares of the steps", list(shares))
    rule = "given where the schedule is multistep, and empty otherwise"
    require(bool(shares) == (schedule == "multistep"), name, rule, list(shares))


def in_words(value: object) -> str:
    """A value as params.yaml shows it: a tuple is a list there, and a section is only said to be set."""
    if dataclasses.is_dataclass(value):
        return "set"
    return shortened(_SHORT.repr(list(value) if isinstance(value, tuple) else value), LONGEST_VALUE)


def check_name(name: str, valid: tuple[str, ...], field_name: str) -> None:
    """Raise ConfigError with the nearest valid name unless the name is valid."""
    if name not in valid:
        raise ConfigError(
            f"{field_name} must be one of {', '.join(valid)}, but is {in_words(name)}{nearest(name, valid)}"
        )


def nearest(name: str, valid: typing.Iterable[str]) -> str:
    """The words "; did you mean ...?" for a typo, or nothing."""
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def from_dict(cls: type[T], values: object, prefix: str) -> T:
    """Build one dataclass from a mapping; `prefix` is the dotted path it hangs from. Raises ConfigError."""
    where = prefix.rstrip(".") or "params.yaml"
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a mapping of settings, but is {in_words(values)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            word = shortened(str(key), LONGEST_VALUE)
            raise ConfigError(f"{prefix}{word} is not a known setting{_nearest_dotted(word, fields, prefix)}")
    built = {}
    for name, spec in fields.items():
        if name in values:
            built[name] = _convert(values[name], hints[name], f"{prefix}{name}")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{name} is missing from {where}; `cgankd use PRESET` writes a complete file")
    return cls(**built)


def _nearest_dotted(key: str, valid: typing.Iterable[str], prefix: str) -> str:
    match = difflib.get_close_matches(key, list(valid), n=1, cutoff=0.4)
    if match:
        return f"; the nearest valid one is {prefix}{match[0]}"
    return f"; valid here: {', '.join(prefix + v for v in valid)}"


def _convert(value: Any, hint: Any, name: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        return None if value is None else _convert(value, options[0], name)
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise ConfigError(
                f"{name} must be one of {', '.join(map(str, allowed))}, but is {in_words(value)}{nearest(str(value), allowed)}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name} must be a list, but is {in_words(value)}")
        check_members(len(value), name)
        return tuple(_convert(v, typing.get_args(hint)[0], f"{name}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} must be a mapping, but is {in_words(value)}")
        check_members(len(value), name)
        return {str(k): _convert(v, typing.get_args(hint)[1], f"{name}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, f"{name}.")
    return _convert_plain(value, hint, name)


def check_members(count: int, name: str) -> None:
    """Raise ConfigError where a list or mapping of settings has more members than any use of it."""
    if count > MOST_MEMBERS:
        raise ConfigError(f"{name} must have at most {MOST_MEMBERS} entries, but has {count}")


def _convert_plain(value: Any, hint: type, name: str) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > LARGEST and (hint is int or value.bit_length() > 1000):  # 1e20 without a point is a float too
            raise ConfigError(f"{name} must be a number within 63 bits, but is {in_words(value)}")
        if hint is float:
            value = float(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 readers take 1e-06 for text, and DVC writes small numbers like that (dvc#5971).
        with contextlib.suppress(ValueError):
            value = float(value)
    if type(value) is not hint:
        words = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}
        raise ConfigError(f"{name} must be {words.get(hint.__name__, hint.__name__)}, but is {in_words(value)}")
    if isinstance(value, int | float):
        check_bounds(value, name)
    return value


def check_bounds(value: float, name: str) -> None:
    """Raise ConfigError where a number is larger than any use of a setting of that name, or not finite."""
    if isinstance(value, float):
        check_finite(value, name)
    last = name.rpartition(".")[2].partition("[")[0]
    own = (most for pattern, most in BOUNDS if pattern.search(last))
    most = next(own, MOST_FLOAT if isinstance(value, float) else MOST_COUNT)
    require(abs(value) <= most, name, f"at most {most:,.10g}" if value > 0 else f"at least {-most:,.10g}", value)


def check_finite(value: float, name: str) -> None:
    """Raise ConfigError where a number is NaN or infinite, which YAML and float("inf") let through."""
    if not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, but is {'NaN' if math.isnan(value) else value}")


def to_dict(config: object) -> dict[str, Any]:
    """The nested dict of a config dataclass, tuples as lists, ready for YAML or JSON.

    A field of its own with `left_out` in its metadata is not written while it has its default; nor is one of a section
    in it that has `shortened` in its metadata.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return value

    result = plain(dataclasses.asdict(config))  # type: ignore[call-overload]
    assert isinstance(result, dict)
    for spec in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, spec.name)
        if "left_out" in spec.metadata and value == spec.default:
            del result[spec.name]
        elif "shortened" in spec.metadata and value is not None:
            result[spec.name] = to_dict(value)
    return result
