"""dvc.yaml, params.yaml, config and stage modules must agree, and only `evaluate` may reach the test split."""

from __future__ import annotations

import ast
import importlib
from typing import Any

import pytest
from ruamel.yaml import YAML

from cgankd.config import Config
from tests.conftest import ROOT, preset

STAGES = ["prepare", "teacher", "cgan", "ratio", "bank", "student", "evaluate"]
DVC: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


def names(entries: list[Any]) -> list[str]:
    return [next(iter(e)) if isinstance(e, dict) else e for e in entries]


def test_stages_are_the_method_in_order() -> None:
    assert list(DVC) == STAGES
    for stage in STAGES:
        assert DVC[stage]["cmd"] == f"python -m cgankd {stage}"
        assert callable(importlib.import_module(f"pipelines.stages.{stage}").run)


@pytest.mark.parametrize("stage", STAGES)
def test_params_exist_and_cover_the_stage(stage: str) -> None:
    values = preset("digits")
    sections = {p.split(".")[0] for p in DVC[stage]["params"]}
    for dotted in DVC[stage]["params"]:
        node: Any = values
        for key in dotted.split("."):
            assert key in node, dotted
            node = node[key]
    own = "data" if stage == "prepare" else stage
    assert own in sections and own in Config.__dataclass_fields__


def test_a_refusal_of_the_bank_concerns_no_training() -> None:
    """Its cure, bank.refuse_worthless: false, must not train anything again."""
    for stage in STAGES:
        asked = {"bank", "bank.refuse_worthless"} & set(DVC[stage]["params"])
        text = (ROOT / "pipelines" / "stages" / f"{stage}.py").read_text()
        assert bool(asked) == ("cfg.bank.refuse_worthless" in text) == (stage == "bank")


@pytest.mark.parametrize("stage", STAGES[1:])
def test_inputs_are_outputs_of_earlier_stages(stage: str) -> None:
    earlier = {out for s in STAGES[: STAGES.index(stage)] for out in names(DVC[s]["outs"])}
    for dep in DVC[stage]["deps"]:
        if dep.startswith("artifacts/"):
            assert dep in earlier, f"{stage} depends on {dep}, which no earlier stage makes"
        else:
            assert (ROOT / dep).exists(), dep


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_reports_into_its_own_files(stage: str) -> None:
    assert names(DVC[stage]["metrics"]) == [f"metrics/{stage}.json"]
    for plot in names(DVC[stage]["plots"]):
        assert plot.startswith(f"plots/{stage}/")


@pytest.mark.parametrize("stage", STAGES)
def test_declared_inputs_match_the_code(stage: str) -> None:
    """Every artifact a stage opens through the context is a DVC dependency of it."""
    tree = ast.parse((ROOT / "pipelines" / "stages" / f"{stage}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "inputs":
            for argument in node.args:
                assert isinstance(argument, ast.Constant)
                path = f"artifacts/{argument.value}"
                assert any(path == d or path.startswith(d + "/") for d in DVC[stage]["deps"]), path


def test_only_evaluate_reads_the_test_split() -> None:
    readers = []
    for path in sorted((ROOT / "pipelines").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "read_split":
                split = node.args[1]
                assert isinstance(split, ast.Constant), f"{path}: the split must be named in place"
                if split.value == "test":
                    readers.append(path.stem)
    assert readers == ["devices", "evaluate"], (
        "files for devices are reported on test images; nothing is chosen on them"
    )
