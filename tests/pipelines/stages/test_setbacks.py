"""What the user sees of numbers that are not finite and of a collapsed GAN: the log, the metrics, the report, or one sentence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from cgankd.config import ArmConfig
from cgankd.fit.best import Best
from cgankd.fit.plain import Plain
from cgankd.gan.collapse import KINDS, Collapse
from cgankd.types import Diverged
from pipelines.commands.app import app
from pipelines.files.artifacts import config_path, save_weights
from pipelines.report.facts import stage_facts
from pipelines.runtime.curves import Curves
from pipelines.students.run_arm import History, train_job
from tests.distill.arms import job, settings, workplace
from tests.fit.test_watch import Poison
from tests.pipelines.networks.test_own_teacher import project
from tests.pipelines.teachers.test_members import project as members_project
from tests.pipelines.teachers.test_members import run as run_members
from tests.tiny import write_params


def stage(folder: Path, name: str, code: int = 0) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "400")
        result = CliRunner().invoke(app, [name])
    assert result.exit_code == code, result.output + result.stderr
    return result.stdout + result.stderr


def metrics(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics" / f"{name}.json").read_text())
    return found


def warnings(folder: Path, name: str) -> list[str]:
    return [sentence for mark, sentence in stage_facts(folder, name).health if mark == "WARNING"]


def test_a_teacher_whose_loss_is_no_number_once_is_saved_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = project(tmp_path)
    values["teacher"] |= {"num_steps": 6}
    write_params(tmp_path, values)
    poison = Poison(Plain.__call__, (3,))
    monkeypatch.setattr(Plain, "__call__", lambda *args: poison(*args))
    said = stage(tmp_path, "teacher")
    assert "teacher: not finite at step 3 (loss nan); going on from step 0 at half the learning rate" in said
    found = metrics(tmp_path, "teacher")
    assert found["health.setback.teacher"] == 3.0 and found["health.setback.teacher.ok"] == 0
    (sentence,) = warnings(tmp_path, "teacher")
    assert f"WARNING: {sentence}" in said
    assert sentence.endswith("from step 0 at half the learning rate: lower teacher.learning_rate")
    assert len((tmp_path / "plots/teacher/teacher.csv").read_text().splitlines()) == 7
    monkeypatch.undo()
    stage(tmp_path, "teacher")
    assert not [name for name in metrics(tmp_path, "teacher") if name.startswith("health")]


@pytest.mark.parametrize("changes", [{"num_steps": 1, "learning_rate": 1e30}, {"num_steps": 9, "learning_rate": 1e30}])
def test_a_teacher_that_answers_with_no_numbers_is_no_success(tmp_path: Path, changes: Mapping[str, Any]) -> None:
    values = project(tmp_path)
    values["teacher"] |= changes
    write_params(tmp_path, values)
    said = stage(tmp_path, "teacher", code=2)
    assert said.splitlines()[-1].startswith(
        "error: teacher.learning_rate: the loss, the weights or the outputs are not finite"
    )
    assert "Traceback" not in said
    assert not [*tmp_path.glob("artifacts/teacher*"), *tmp_path.glob("metrics/*")]


def test_a_member_keeps_its_setback_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members_project(tmp_path, 2)
    poison = Poison(Plain.__call__, (3,))
    monkeypatch.setattr(Plain, "__call__", lambda *args: poison(*args))
    said = [run_members(tmp_path), run_members(tmp_path)]
    assert "member 0: not finite at step 3" in said[0] and "2 of 2 members were trained before" in said[1]
    for text in said:
        assert "WARNING: the training of member 0 had numbers that are not finite at step 3" in text
    assert metrics(tmp_path, "teacher")["health.setback.member_0"] == 3.0


def test_a_student_keeps_its_setback_with_its_weights(tmp_path: Path) -> None:
    place, records = workplace(tmp_path, False), list[dict[str, Any]]()
    for name, calls in (("plain", ()), ("poisoned", (5,))):
        poison = Poison(Plain.__call__, calls)
        student = {"base_steps": 8, "base_learning_rate": 0.01}
        run = dataclasses.replace(job(place, settings(False, **student), name), arm=ArmConfig(), stage="base")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Plain, "__call__", lambda *args, poison=poison: poison(*args))
            said = train_job(run)
        records.append(run.read())
    plain, poisoned = records
    assert "setbacks" not in plain and plain["curves"].keys() == poisoned["curves"].keys()
    (setback,) = poisoned["setbacks"]
    assert (setback["step"], setback["back_to"], setback["setting"]) == (5, 0, "student.learning_rate")
    assert any(line.startswith("student ") and "not finite at step 5" in line for line in said)
    for name, points in plain["curves"].items():
        assert [step for step, _ in poisoned["curves"][name]] == [step for step, _ in points], "no step is there twice"


def test_a_collapse_is_in_log_metrics_and_report_and_kept_with_the_gan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = project(tmp_path)
    values["cgan"] |= {"precision": "fp32", "num_steps": 16}
    write_params(tmp_path, values)
    signs = dict.fromkeys(KINDS, False) | {"label": True}
    monkeypatch.setattr(Collapse, "signs", lambda *args: signs)
    for turn in range(2):
        said = stage(tmp_path, "cgan")
        assert ("the GAN seems to have collapsed, seen at step 14 of 16: " in said) == (turn == 0)
        found = metrics(tmp_path, "cgan")
        assert (
            found["collapse.label"] == found["health.collapse.label"] == 14.0 and found["health.collapse.label.ok"] == 0
        )
        assert f"the GAN seems to have collapsed since step 14: {KINDS['label']}" in warnings(tmp_path, "cgan")
    for path in tmp_path.glob("artifacts/cgan*"):
        path.unlink()
    values["cgan"]["stop_collapsed"] = True
    write_params(tmp_path, values)
    said = stage(tmp_path, "cgan", code=2)
    assert said.splitlines()[-1].startswith("error: cgan.stop_collapsed: the GAN has collapsed, seen at step 14 of 16")
    assert not [*tmp_path.glob("artifacts/cgan*")]


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_weights_that_are_not_finite_are_never_written(tmp_path: Path, value: float) -> None:
    path, net = tmp_path / "net.safetensors", nn.BatchNorm1d(2)
    save_weights(path, net, {"old": True})
    before = path.read_bytes(), config_path(path).read_bytes()
    net.running_var[1] = value  # type: ignore[index]
    with pytest.raises(
        Diverged, match=r"net\.safetensors would hold numbers that are not finite \(running_var\); nothing"
    ):
        save_weights(path, net, {"old": False})
    assert (path.read_bytes(), config_path(path).read_bytes()) == before


def test_curves_that_go_back_forget_what_came_after() -> None:
    curves = Curves()
    for step in (2, 4, 6):
        curves.add(step, {"loss": float(step)})
    curves.restore([[2, {"loss": 2.0}]])
    assert curves.rows == {2: {"loss": 2.0}} and len(curves.waiting["loss"]) == 3, "it is not told again"
    curves.add(4, {"loss": 9.0})
    curves.add(3, {"loss": 8.0})
    assert curves.rows == {2: {"loss": 2.0}, 3: {"loss": 8.0}}


def test_the_best_point_of_what_came_to_nothing_is_forgotten() -> None:
    net = nn.Linear(1, 1)
    history = History(Best(net, higher_is_better=False))
    with torch.no_grad():
        for step, weight, val in ((2, 1.0, 5.0), (4, 2.0, 3.0), (2, 3.0, 6.0)):
            net.weight.fill_(weight)
            history.log(step, {"loss": val, "val": val}, 10)
    assert history.curves == {"loss": [(2, 6.0)], "val": [(2, 6.0)]}
    assert history.best is not None and (history.best.step, history.best.score) == (2, 6.0)
    kept: Tensor = history.best.weights["weight"]
    assert float(kept) == 3.0
