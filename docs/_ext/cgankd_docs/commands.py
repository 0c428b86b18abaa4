"""The reference of the command line: every command, argument and option as Typer knows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from pipelines.commands.app import app

ROOT = "cgankd"
FIRST_PANEL = "Options"
"""Typer's heading above what belongs to no panel."""
OPTION = re.compile(r"(?<![`\w-])(--[a-z][\w-]*)")
"""An option in running text, which is to show as code."""


@dataclass(frozen=True)
class Given:
    """An argument or option: how it is written, what it means, and facts such as its default."""

    names: tuple[str, ...]
    value: str
    meaning: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A command by its words, with what it takes and the panel of the help it stands in."""

    words: str
    meaning: str
    panel: str
    given: tuple[Given, ...]
    arguments: tuple[str, ...]
    has_commands: bool

    @property
    def usage(self) -> str:
        """The line that the help calls usage."""
        options = ["[OPTIONS]"] if any(g.names[0].startswith("-") for g in self.given) else []
        return " ".join([self.words, *options, *self.arguments, *(["[COMMAND]"] if self.has_commands else [])])


def commands() -> list[Command]:
    """Every command in the order of the help, sub-commands after the command they belong to."""
    return list(_walk(typer.main.get_command(app), ROOT, FIRST_PANEL))


def _walk(command: Any, words: str, panel: str) -> Iterator[Command]:
    found = getattr(command, "commands", {})
    arguments = tuple(str(p.metavar or p.name.upper()) for p in command.params if p.param_type_name == "argument")
    given = tuple(_given(parameter) for parameter in command.params)
    yield Command(words, command.help or "", panel, given, arguments, bool(found))
    names = command.list_commands(None) if found else []
    for name in names:
        inner = found[name]
        own = getattr(inner, "rich_help_panel", None)
        yield from _walk(inner, f"{words} {name}", own if isinstance(own, str) else panel)


def _given(parameter: Any) -> Given:
    facts = ["required"] if parameter.required else []
    if parameter.param_type_name == "argument":
        names, value = (str(parameter.metavar or parameter.name).upper().strip("[]."),), ""
        facts += ["any number of them"] if "..." in (parameter.metavar or "") else []
    else:
        names = (*parameter.opts, *parameter.secondary_opts)
        value = "" if isinstance(parameter.default, bool) else str(parameter.metavar or parameter.name.upper())
    if getattr(parameter, "multiple", False):
        facts.append("may be given several times")
    if isinstance(parameter.default, bool):
        facts += ["on by default"] if parameter.default else []
    elif parameter.default is not None:
        facts.append(f"default `{parameter.default}`")
    if parameter.envvar:
        facts.append(f"also as environment variable `{parameter.envvar}`")
    return Given(names, value, parameter.help or "", tuple(facts))


def page(path: Path, words: list[str]) -> str:
    """All commands as Markdown: a heading a panel, below it one for each command."""
    parts: list[str] = []
    panel = FIRST_PANEL
    every = commands()
    order = list(dict.fromkeys(command.panel for command in every))
    for command in sorted(every, key=lambda c: order.index(c.panel)):
        if command.panel != panel:
            panel = command.panel
            parts.append(f"## {panel}\n")
        parts.append(section(command))
    return "\n".join(parts)


def section(command: Command) -> str:
    """One command: heading, usage, meaning, and an entry for each argument and option."""
    depth = len(command.words.split())
    heading = "## Before the command" if depth == 1 else f"{'#' * min(depth + 1, 4)} {command.words}"
    lines = [heading, "", "```text", command.usage, "```", "", in_code(command.meaning), ""]
    lines += [f"```{{program}} {command.words}", "```", ""]
    for given in command.given:
        shown = ", ".join(f"{name} {given.value}".strip() for name in given.names)
        lines += [f"```{{option}} {shown}", in_code(given.meaning), ""]
        lines += ["{.facts}", " · ".join(given.facts)] if given.facts else []
        lines += ["```", ""]
    return "\n".join(lines)


def in_code(text: str) -> str:
    """Running text in which options are code."""
    return OPTION.sub(r"`\1`", text)
