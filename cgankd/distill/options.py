"""A KD loss from its name and the options of params.yaml, both checked."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal

from cgankd.config.settings import ConfigError, check_bounds, nearest
from cgankd.distill.base import METHODS, Distiller


def checked_distiller(name: str, options: Mapping[str, Any], name_field: str, options_field: str) -> Distiller:
    """`make_distiller` whose errors name these settings of params.yaml. Raises ConfigError."""
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise ConfigError(f"{name_field} must be one of {known}, but is {name!r}{nearest(name, METHODS)}")
    method = METHODS[name]
    values = check_options(method, options, options_field)
    try:
        return method(**values)
    except ConfigError:
        raise
    except ValueError as error:
        text = str(error).removeprefix(f"{name}.")
        join = "." if text.split()[0] in method.options() else ": "
        raise ConfigError(f"{options_field}{join}{text}") from error


def check_options(method: type[Distiller], options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options as the constructor takes them: whole numbers for floats become floats, lists become tuples.

    Raises ConfigError on an unknown or missing option or one of the wrong type; `where` is the dotted place.
    """
    hints = typing.get_type_hints(method.__init__)
    defaults = method.options()
    for key in options:
        if key not in defaults:
            has = f"; valid here: {', '.join(defaults)}" if defaults else f"; {method.name} has no options"
            raise ConfigError(f"{where}.{key} is not an option of {method.name}{nearest(str(key), defaults) or has}")
    for key, default in defaults.items():
        if default is inspect.Parameter.empty and key not in options:
            raise ConfigError(f"{where}.{key} is missing; {method.name} has no default for it")
    return {key: _convert(value, hints.get(key, Any), f"{where}.{key}") for key, value in options.items()}


def _convert(value: Any, hint: Any, name: str) -> Any:
    """One option by its annotation: a type, a union, a Literal, a tuple or list of one type, or a mapping."""
    origin = typing.get_origin(hint)
    if hint is Any or origin is dict or (origin is not None and issubclass(_as_class(origin), Mapping)):
        return value
    if origin in (typing.Union, UnionType):
        kinds = typing.get_args(hint)
        if value is None and NoneType in kinds:
            return None
        for kind in kinds:
            if kind is not NoneType:
                try:
                    return _convert(value, kind, name)
                except ConfigError as error:
                    last = error
        raise last
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{name} must be one of {', '.join(map(str, typing.get_args(hint)))}, but is {value!r}")
        return value
    if origin is not None:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name} must be a list, but is {value!r}")
        return tuple(_convert(item, typing.get_args(hint)[0], f"{name}[{i}]") for i, item in enumerate(value))
    if hint is float and type(value) is int:
        value = float(value)
    if isinstance(hint, type) and type(value) is not hint:
        words = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}
        raise ConfigError(f"{name} must be {words.get(hint.__name__, hint.__name__)}, but is {value!r}")
    if isinstance(value, int | float):
        check_bounds(value, name)
    return value


def _as_class(origin: Any) -> type:
    return origin if isinstance(origin, type) else object
