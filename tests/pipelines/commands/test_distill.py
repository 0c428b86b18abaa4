"""`cgankd distillers`: plain lines in a pipe, every method described, a typo named."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from cgankd.distill.methods import METHODS
from pipelines.commands.app import app
from pipelines.report.kd_losses import INTRODUCTION, PAGE_WIDTH, markdown_table, refilled
from tests.conftest import ROOT

RUNNER = CliRunner()


def test_the_table_has_a_line_for_each_method() -> None:
    result = RUNNER.invoke(app, ["distillers"])
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and lines[0] == ["name", "task", "needs", "source", "status"]
    assert [line[0] for line in lines[1:]] == list(METHODS)
    assert all(len(line) == 5 and line[1] in ("class", "scalar", "both") for line in lines[1:])
    assert all(line[4] in ("published", "reconstruction", "adaptation") for line in lines[1:])


@pytest.mark.parametrize("name", METHODS)
def test_each_method_is_described(name: str) -> None:
    result = RUNNER.invoke(app, ["distillers", "describe", name])
    assert result.exit_code == 0, result.output
    for option in METHODS[name].options():
        assert f"  {option}: " in result.stdout
    assert "source\ttarget\ttransform\tdistance\tweight\tschedule\tphase" in result.stdout


def test_a_typo_names_the_nearest() -> None:
    result = RUNNER.invoke(app, ["distillers", "describe", "takf"])
    assert result.exit_code == 2 and "there is no KD loss 'takf'; did you mean 'takd'?" in result.output


def test_the_page_of_the_documentation_is_current() -> None:
    result = RUNNER.invoke(app, ["distillers", "--markdown"])
    assert result.exit_code == 0, result.output
    page = (ROOT / "docs/distillers.md").read_text(encoding="utf-8")
    assert result.stdout == page, "run: python -m cgankd distillers --markdown > docs/distillers.md"
    assert all(f"\n## {name}\n" in page and f"| [{name}](#{name}) |" in page for name in METHODS)
    for name, method in METHODS.items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert method.source in section and all(f"| `{option}` |" in section for option in method.options())


def test_the_example_of_the_page_runs() -> None:
    code = INTRODUCTION.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    assert set(names["terms"]) == {"target", "non_target"} and names["logits"].grad.any()


def test_full_lines_flow_on_and_short_ones_stay() -> None:
    full = "word " * 20 + "ends"
    text = refilled(f"a formula = 1\nanother = 2\n\n{full}\nhere.")
    assert text.startswith("a formula = 1\nanother = 2\n\nword word") and text.endswith("word ends here.")
    assert max(map(len, text.splitlines())) <= PAGE_WIDTH


def test_bars_do_not_break_a_table() -> None:
    assert markdown_table(("a", "b"), [("x|y", "z")]) == "| a | b |\n| --- | --- |\n| x\\|y | z |\n"
