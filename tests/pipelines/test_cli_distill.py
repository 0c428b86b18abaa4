"""`cgankd distillers`: plain lines in a pipe, every method described, a typo named."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cgankd.distill.methods import METHODS
from pipelines.cli import app

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
