"""The public names of the library, each from its docstring."""

from __future__ import annotations

import inspect
from pathlib import Path

import cgankd


def names() -> list[str]:
    """What `from cgankd import ...` is meant for."""
    return list(getattr(cgankd, "__all__", ()))


def page(path: Path, words: list[str]) -> str:
    """An entry for each public name."""
    return "\n".join(entry(name) for name in names())


def entry(name: str) -> str:
    """One name as a directive of autodoc: a class with what its users call, a function, or a value."""
    found = getattr(cgankd, name)
    if inspect.isclass(found):
        lines = [f".. autoclass:: cgankd.{name}", "   :members:", "   :member-order: bysource"]
    elif callable(found):
        lines = [f".. autofunction:: cgankd.{name}"]
    else:
        lines = [f".. autodata:: cgankd.{name}", "   :no-value:"]
    return "\n".join([f"## {name}", "", "```{eval-rst}", *lines, "```", ""])
