"""The explanations: what they quote of the code is what the code says."""

from __future__ import annotations

import ast
import inspect
import re

from cgankd.measure import verdict
from cgankd.measure.predictive import Gain
from tests.conftest import ROOT

PAGE = (ROOT / "docs/explanation/verdict.md").read_text(encoding="utf-8")
NUMBERS = {5: "five", 6: "six", 7: "seven"}


def text(node: ast.expr) -> str:
    """A string with N where an f-string puts a value."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "N" for part in parts)


def heads_in_the_code() -> set[str]:
    """What `verdict` sets as head, and the beginning of each sentence that it returns without one."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(verdict.verdict))):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "head":
            found.add(text(node.value))
        if isinstance(node, ast.Return) and isinstance(node.value, ast.JoinedStr):
            beginning = text(node.value)
            found |= set() if beginning.startswith("N: ") else {beginning.split(";")[0]}
    return found


def test_every_head_of_the_verdict_is_explained() -> None:
    table = re.search(r"^\| head \| when \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table is not None
    rows = [row.split(" | ")[0].removeprefix("| ") for row in table[1].splitlines()]
    assert len(rows) == len(set(rows)) and set(rows) == heads_in_the_code()
    assert f"begins with one of {NUMBERS[len(rows)]} heads" in PAGE


def test_words_on_a_gain_are_explained() -> None:
    """Each way in which a gain is described ends with words of the table."""
    cases = [((1.0,) * 3, 0.5, 1.5), ((1.0,) * 3, -0.5, 2.5), ((-1.0,) * 3, -1.5, -0.5), ((1.0,) * 2, 0.5, 1.5)]
    for values, low, high in cases:
        said = verdict.describe(Gain(values[0], low, high, values), "%").split("], ")[1]
        assert f"\n| {said} | " in PAGE
