"""The settings reference: every field of the dataclasses behind params.yaml, with the words that stand below it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cgankd.config import NETS
from pipelines.files.layout import SECTIONS
from pipelines.files.params import flatten, parse, preset_text
from pipelines.search.config import SearchedConfig

EXAMPLE = "digits"
"""The preset whose values are shown."""
WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "any value"}
NOTHING = object()


@dataclass(frozen=True)
class Setting:
    """One field: its dotted name, its type and default in words, what it means, and its value in the example preset."""

    name: str
    type: str
    default: str
    meaning: str
    example: str | None
    section: bool
    """True where the field is a group of settings, whose own follow it."""


def docs_of(cls: type) -> dict[str, str]:
    """Field -> the string below it, those of base classes too."""
    found: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if dataclasses.is_dataclass(c)]):
        (tree,) = ast.parse(inspect.cleandoc(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
                found[node.target.id] = " ".join(str(text).split()) if text else ""
    return found


def plain(value: Any) -> str:
    """A value as params.yaml has it, on one line."""
    if dataclasses.is_dataclass(value):
        return "see below"
    if isinstance(value, dict):
        return "see below" if value else "{}"
    if isinstance(value, str):
        return value or '""'
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def words(hint: Any) -> str:
    """A type in words; the choices of a Literal as code."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("`null`" if part is types.NoneType else words(part) for part in parts)
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return f"list of {words(parts[0])}" if parts[0] in (Any, str) else f"list of {words(parts[0])}s"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "section"
    return WORDS[hint]


def below(hint: Any) -> tuple[type, str] | None:
    """The dataclass within a type, and what stands for its place in a dotted name; None for a plain value."""
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return hint, ""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    places = {tuple: ("[]", parts[:1]), dict: (".NAME", parts[1:])}
    ending, inner = places.get(origin, ("", parts)) if origin is not None else ("", ())
    found = [part for part in inner if isinstance(part, type) and dataclasses.is_dataclass(part)]
    return (found[0], ending) if found else None


def walk(cls: type, prefix: str, shown: dict[str, Any]) -> Iterator[Setting]:
    """The fields of a dataclass, each followed by those within it; `shown` are the values of the example preset."""
    hints, docs = typing.get_type_hints(cls), docs_of(cls)
    for field in dataclasses.fields(cls):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        inner, default = below(hint), "required"
        if field.default is not dataclasses.MISSING:
            default = f"`{plain(field.default)}`"
        elif field.default_factory is not dataclasses.MISSING:
            made = field.default_factory()
            default = plain(made) if dataclasses.is_dataclass(made) or made else f"`{plain(made)}`"
        kind = (
            words(hint)
            if inner is None or inner[1] == ""
            else f"{'list' if inner[1] == '[]' else 'mapping'} of sections"
        )
        example = plain(shown[name]) if name in shown else None
        yield Setting(name, kind, default, docs[field.name], example, inner is not None)
        if inner is not None:
            yield from walk(inner[0], f"{name}{inner[1]}.", shown)


def settings() -> list[Setting]:
    """Every setting of params.yaml in the order of its sections."""
    shown = flatten(parse(preset_text(EXAMPLE), EXAMPLE))
    return list(walk(SearchedConfig, "", shown))


def readers(section: str) -> str:
    """Who reads a section of params.yaml, in a sentence."""
    whole = [f"`{stage}`" for stage, read in SECTIONS.items() if section in read]
    of: dict[str, list[str]] = {}
    for stage, read in SECTIONS.items():
        for name in read:
            if f"{section}." in name:
                of.setdefault(name, []).append(f"`{stage}`")
    parts = [f"{' and '.join(who)} read{'s' if len(who) == 1 else ''} `{name}` of it" for name, who in of.items()]
    if len(whole) > 1:
        return f"Read by the stages {', '.join(whole)}."
    also = f"; {'; '.join(parts)}" if parts else ""
    return f"Read by the stage {whole[0]}{also}." if whole else ELSEWHERE[section]


ELSEWHERE = {
    "tracking": "Read when any stage opens its run; it changes no number, so DVC runs no stage again for it.",
    "search": "Read by `cgankd search` alone; no stage depends on it, so DVC runs no stage again for it.",
    "sizes": "Read by `cgankd sizes` alone; no stage depends on it, so DVC runs no stage again for it.",
}
CHOICES = {
    "teacher.net": ("Those of this project:", NETS),
    "student.net": ("Those of this project:", NETS),
}
"""Names that the code checks against a list, which neither type nor words show."""
FILE = re.compile(r"docs/((?:[\w-]+/)*[\w-]+\.md)")
"""A page of this site in the words beside a field."""


def page(path: Path, words_after: list[str]) -> str:
    """All settings as Markdown: a heading a section, an entry a setting."""
    hints = typing.get_type_hints(SearchedConfig)
    parts: list[str] = []
    for setting in settings():
        if "." not in setting.name:
            about = inspect.getdoc(hints[setting.name]) if setting.section else ""
            parts.append(f"## {setting.name}\n\n{first_paragraph(about or '')} {readers(setting.name)}\n")
            if setting.section:
                continue
        parts.append(entry(setting))
    return "\n".join(parts)


def first_paragraph(text: str) -> str:
    """The first paragraph on one line."""
    return " ".join(text.split("\n\n")[0].split())


def entry(setting: Setting) -> str:
    """One setting as a `confval`, which has an anchor and is found by the search of the site."""
    lines = [f"```{{confval}} {setting.name}", FILE.sub(r"[](/\g<1>)", setting.meaning), ""]
    if setting.name in CHOICES:
        before, names = CHOICES[setting.name]
        lines += [f"{before} {', '.join(f'`{name}`' for name in names)}.", ""]
    facts = [setting.type, "required" if setting.default == "required" else f"default {setting.default}"]
    facts += [] if setting.example is None else [f"{EXAMPLE}: `{setting.example}`"]
    return "\n".join([*lines, "{.facts}", " · ".join(facts), "```", ""])
