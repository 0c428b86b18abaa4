"""The public names of the library, each from its docstring."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import cgankd


def names() -> list[str]:
    """What `from cgankd import ...` is meant for."""
    return list(getattr(cgankd, "__all__", ()))


def page(path: Path, words: list[str]) -> str:
    """An entry for each public name, by what it is for."""
    parts = [f"## {purpose}\n\n" + "\n".join(entry(name) for name in part) for purpose, part in cgankd.PUBLIC.items()]
    return "\n".join(parts)


def entry(name: str) -> str:
    """One name as a directive of autodoc: a class with what its users call, a function, or a value."""
    found = getattr(cgankd, name)
    if inspect.isclass(found):
        lines = [f".. autoclass:: cgankd.{name}", "   :members:", "   :member-order: bysource"]
        # A field whose default is a function would be shown with that function's words.
        if dataclasses.is_dataclass(found) and (
            hidden := [f.name for f in dataclasses.fields(found) if callable(f.default)]
        ):
            lines.append(f"   :exclude-members: {', '.join(hidden)}")
    elif callable(found):
        lines = [f".. autofunction:: cgankd.{name}"]
    else:
        lines = [f".. autodata:: cgankd.{name}", "   :no-value:"]
    return "\n".join(["```{eval-rst}", *lines, "```", ""])
