"""KD losses of arms through the student stage and evaluate: equal to the section's, fingerprinted, resumed, reported."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from cgankd.config import Config, ConfigError
from cgankd.data.store.datasets import read_info, read_split
from cgankd.distill.methods import METHODS
from cgankd.fit.loop import Loop
from cgankd.fit.predictor import make_predict, mean_score
from cgankd.labels.task import make_task
from cgankd.measure.predictive import mean_sd
from pipelines.files.artifacts import ResumeFile
from pipelines.files.distillers import check_distillers
from pipelines.files.kept_runs import read_sealed
from pipelines.networks.distilled import load_student
from pipelines.runtime.context import Context
from pipelines.search.students import quiet_context
from pipelines.stages import evaluate, student
from pipelines.stages.table import render
from pipelines.students import run_arm
from pipelines.students.run_arm import Job, train_job
from tests.conftest import preset
from tests.distill.arms import job, settings, workplace

ARMS = {
    "real": {},
    "real_kd": {"kd": True},
    "raw": {"bank": True},
    "raw_dkd": {"bank": True, "kd": True, "distiller": "dkd", "distiller_options": {"non_target_weight": 2.0}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workplace(tmp_path_factory.mktemp("place"), False)


def weights(run: Job) -> dict[str, torch.Tensor]:
    train_job(run)
    return load_file(run.out)


def own(run: Job, **arm: Any) -> Job:
    return dataclasses.replace(run, arm=dataclasses.replace(run.arm, **arm))


def test_an_arms_loss_is_the_sections_bit_for_bit(place: Path) -> None:
    options = {"non_target_weight": 2.0}
    section = weights(job(place, settings(False, distiller="dkd", distiller_options=options), "section"))
    arm = weights(own(job(place, settings(False), "arm"), distiller="dkd", distiller_options=options))
    other = weights(job(place, settings(False), "other"))
    assert all(torch.equal(section[key], arm[key]) for key in section)
    assert not all(torch.equal(section[key], other[key]) for key in section)


@pytest.mark.parametrize(
    ("scalar", "arm", "words"),
    [
        (False, {"distiller": "takf"}, r"student\.arms\.own\.distiller must be one of .*did you mean 'takd'"),
        (
            False,
            {"distiller": "kd", "distiller_options": {"temperatur": 1}},
            r"student\.arms\.own\.distiller_options\.temperatur .*did you mean 'temperature'",
        ),
        (
            True,
            {"distiller": "dkd"},
            r"student\.arms\.own\.distiller dkd compares class logits, so it cannot distil scalar labels"
            r" \(data\.task is scalar\); those that can: .*reg_kd",
        ),
    ],
)
def test_mistakes_of_an_arm_are_named(scalar: bool, arm: dict[str, Any], words: str) -> None:
    cfg = settings(scalar, arms={"real": {}, "own": {"kd": True} | arm})
    with pytest.raises(ConfigError, match=words):
        check_distillers(cfg)


def test_views_of_an_arms_loss_need_an_augmented_teacher() -> None:
    cfg = settings(False, teacher_view="clean", arms={"real": {}, "own": {"kd": True, "distiller": "sskd"}})
    with pytest.raises(ConfigError, match=r"must be augmented for sskd of student\.arms\.own, which compares other"):
        check_distillers(cfg)


def test_nets_that_do_not_suit_an_arms_loss_are_named(place: Path) -> None:
    def unfit(*args: Any) -> None:
        raise ValueError("there is no such layer")

    run = own(job(place, settings(False), "unfit"), distiller="dkd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHODS["dkd"], "build", unfit)
        with pytest.raises(ConfigError, match=r"student\.arms\.unfit\.distiller: there is no such layer"):
            train_job(run)


def val_of(run: Job, path: Path) -> float:
    info = read_info(run.dataset)
    task = make_task(info, run.config)
    net, config = load_student(path, info, task)
    return mean_score(task, make_predict(net, config["precision"]), read_split(run.dataset, "val"))


@pytest.mark.parametrize("distiller", ["kd", "simkd"])
def test_the_best_weights_have_the_best_score_of_the_curve(place: Path, distiller: str) -> None:
    plain = weights(job(place, settings(False, distiller=distiller, num_steps=20), f"last-{distiller}"))
    run = job(place, settings(False, distiller=distiller, num_steps=20, keep_best=True), f"best-{distiller}")
    last = weights(run)
    assert all(torch.equal(plain[key], last[key]) for key in plain), "the last weights are what they were"
    record = run.result()
    scores = [value for _, value in record["curves"]["val"]]
    assert len(scores) == 4 and record["best"]["val"] == min(scores)
    assert record["best"]["step"] == record["curves"]["val"][scores.index(min(scores))][0]
    assert val_of(run, Path(record["best_weights"])) == min(scores) and val_of(run, run.out) == record["val"]
    run.best.unlink()
    assert not run.finished()


def test_a_killed_run_keeps_its_curves_and_its_best(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = settings(False, num_steps=20, keep_best=True)
    straight, killed = job(place, cfg, "straight"), job(place, cfg, "killed")
    train_job(straight)
    save = ResumeFile.save
    monkeypatch.setattr(run_arm, "Loop", partial(Loop, save_every=10))

    def save_and_die(self: ResumeFile, step: int, state: dict[str, object]) -> None:
        save(self, step, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResumeFile, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train_job(killed)
    assert list(place.glob("killed-*.resume"))
    train_job(killed)
    assert read_sealed(straight.record) == read_sealed(killed.record) is not None
    for first, second in ((straight.out, killed.out), (straight.best, killed.best)):
        one, two = load_file(first), load_file(second)
        assert all(torch.equal(one[key], two[key]) for key in one)


def stage(name: str, cfg: Config, folder: Path) -> Context:
    ctx = quiet_context(cfg, folder)
    ctx.stage = name
    return ctx


@pytest.fixture()
def work(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder in which the student stage trains in this process."""
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    for path in place.iterdir():
        if path.name.startswith(("dataset", "teacher", "pool")):
            (artifacts / path.name).symlink_to(path)

    def here(self: student.Runner, jobs: list[Job], title: str) -> None:
        for one in jobs:
            if not one.finished():
                train_job(one)

    monkeypatch.setattr(student.Runner, "run", here)
    return tmp_path


def test_fingerprints_follow_the_loss_that_an_arm_takes(work: Path) -> None:
    def keys(**changes: Any) -> dict[str, str]:
        cfg = settings(False, arms=ARMS, **changes)
        paths = [work / "artifacts" / name for name in ("dataset.h5", "teacher.safetensors", "pool.h5")]
        runner = student.Runner(stage("student", cfg, work), *paths)
        return {name: runner.job(name, arm, 0).out.name for name, arm in cfg.student.arms.items()}

    before, other, options = keys(), keys(distiller="crd"), keys(distiller_options={"temperature": 2.0})
    for changed in (other, options):
        assert {name for name in ARMS if before[name] != changed[name]} == {"real_kd"}
    assert all(before[name] != key for name, key in keys(keep_best=True).items())
    assert keys(sampling="natural") == before
    assert all(before[name] != key for name, key in keys(sampling="balanced").items())


def test_evaluate_states_the_last_and_the_best_weights(work: Path) -> None:
    cfg = settings(False, arms=ARMS, seeds=[0, 1, 2], num_steps=20, keep_best=True, best_with_kd=False)
    with stage("student", cfg, work) as ctx:
        student.run(ctx)
    with stage("evaluate", cfg, work) as ctx:
        evaluate.run(ctx)
    result = json.loads((work / "metrics/evaluate.json").read_text())
    runs = json.loads((work / "artifacts/students/runs.json").read_text())
    assert {name: arm["distiller"] for name, arm in result["arms"].items()} == {
        "real": None,
        "real_kd": "kd",
        "raw": None,
        "raw_dkd": "dkd (non_target_weight=2.0)",
    }
    info = read_info(work / "artifacts/dataset.h5")
    task = make_task(info, cfg)
    test = read_split(work / "artifacts/dataset.h5", "test")
    for name, arm in result["arms"].items():
        found = []
        for run in runs["arms"][name]["runs"]:
            net, config = load_student(work / "artifacts/students" / run["best"]["file"], info, task)
            found.append(mean_score(task, make_predict(net, config["precision"]), test))
        assert arm["best"]["values"] == found and set(arm["best"]) == {"mean", "sd", "values", "steps"}
        assert (arm["best"]["mean"], arm["best"]["sd"]) == pytest.approx(mean_sd(found))
        assert arm["best"]["steps"] == [run["best"]["step"] for run in runs["arms"][name]["runs"]]
    means = {name: arm["val_mean"] for name, arm in result["arms"].items()}
    assert means[result["chosen_arm"]] == min(means.values()), "chosen with the last weights"
    shipped = json.loads((work / "artifacts/student.config.json").read_text())
    assert shipped["val"] in [run["val"] for run in runs["arms"][result["chosen_arm"]]["runs"]]
    lines = shown(result)
    assert "best step" in lines and all(f"{arm['best']['mean']:.2f}+-" in lines for arm in result["arms"].values())
    for arm in result["arms"].values():
        del arm["best"]
    assert "best step" not in shown(result) and "over best real-only" in shown(result)


def shown(result: dict[str, Any]) -> str:
    console = Console(width=80)
    with console.capture() as caught:
        console.print(render(result))
    return caught.get()


def test_the_table_of_many_arms_fits_80_letters() -> None:
    best = {"mean": 12.41, "sd": 1.19}
    arm = {"val_mean": 12.0, "mean": 12.54, "sd": 0.96, "gain": -1.63, "gain_low": -12.4, "gain_high": 10.86}
    arms = {name: arm | {"uses_bank": True, "best": best} for name in preset("digits-distillers")["student"]["arms"]}
    headline = {"name": "test error", "unit": "%", "higher_is_better": False}
    text = shown(
        {
            "headline": headline, "arms": arms, "confidence": 0.95, "num_seeds": 3, "steps": 500, "batch_size": 64,
            "teacher": 9.7, "teacher_val": 10.0, "chosen_arm": "raw", "best_real_arm": "real", "verdict": "",
        }
    )  # fmt: skip
    assert "\u2026" not in text and all(f" {name} " in text for name in arms)


def test_a_long_name_takes_two_lines_before_a_number_is_cut() -> None:
    arm = {"val_mean": 12.0, "mean": 12.54, "sd": 0.96, "uses_bank": False}
    gains = {"gain": 1.63, "gain_low": -0.4, "gain_high": 2.86, "rival_gain": 0.5, "rival_gain_low": -1.0}
    arms = {"real": arm, "real_strong_balanced_kd": arm | gains | {"rival_gain_high": 2.0}}
    text = shown(
        {
            "headline": {"name": "test error", "unit": "%", "higher_is_better": False}, "arms": arms, "confidence": 0.95,
            "num_seeds": 3, "steps": 500, "batch_size": 64, "teacher": 9.7, "teacher_val": 10.0, "chosen_arm": "real",
            "best_real_arm": "real", "verdict": "",
        }
    )  # fmt: skip
    assert "\u2026" not in text
    assert "12.54+-0.96 +1.63 [-0.40,+2.86] +0.50 [-1.00,+2.00]" in text and "over best real-only" in text


def test_the_preset_compares_every_method_on_the_bank_of_digits() -> None:
    plain, found = preset("digits"), preset("digits-distillers")
    for section in ("seed", "data", "teacher", "cgan", "ratio", "bank"):
        assert plain[section] == found[section], section
    arms = found["student"].pop("arms")
    shared = set(found["student"]) & set(plain["student"])
    assert {key for key in shared if found["student"][key] != plain["student"][key]} == {"seeds", "best_with_kd"}
    for prefix, bank in (("real", False), ("raw", True)):
        taken = {
            a["distiller"] for name, a in arms.items() if name.startswith(f"{prefix}_") and a.get("bank", False) == bank
        }
        assert taken == METHODS.keys() - {"cat_kd", "sdd", "reg_kd", "soap_kd"}
    assert {name for name, arm in arms.items() if not arm.get("kd")} == {"real", "raw", "filter"}
