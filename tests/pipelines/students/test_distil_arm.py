"""Students with every KD loss through the real run: they train, resume bit for bit, leave the teacher alone, and ship."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cgankd.config import Config, ConfigError
from cgankd.config.distill import DistillerConfig, distiller_label
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.data.store.datasets import read_info, read_split
from cgankd.distill import Batch, Outputs, make_distiller
from cgankd.distill.base import DataSpec, Distiller, ModelSpec
from cgankd.distill.methods import METHODS
from cgankd.fit.loop import Loop
from cgankd.fit.predictor import Feed, fit_predictor
from cgankd.labels.task import make_task
from cgankd.rng import seed_all
from pipelines.files.distillers import check_distillers
from pipelines.networks.distilled import load_student
from pipelines.networks.predictor import build_predictor
from pipelines.ship.saved import load_package
from pipelines.students.arm_rows import bank_split
from pipelines.students.distil_arm import DistilledRun, Student, distilled_run, train_phases
from pipelines.students.run_arm import Job, teacher_lookup, train_job
from tests.distill.arms import STEPS, job, settings, with_student, workplace

KINDS = [(name, scalar) for name in METHODS for scalar in (False, True) if METHODS[name]().accepts(0 if scalar else 3)]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A work place of each kind of label."""
    return {scalar: workplace(tmp_path_factory.mktemp(f"place{scalar}"), scalar) for scalar in (False, True)}


@pytest.mark.parametrize("bank", [False, True], ids=["real", "bank"])
@pytest.mark.parametrize(("name", "scalar"), KINDS)
def test_every_method_trains_a_student(places: dict[bool, Path], name: str, scalar: bool, bank: bool) -> None:
    run = job(places[scalar], settings(scalar, distiller=name), f"{name}-{bank}", bank=bank)
    train_job(run)
    record = run.read()
    assert all(torch.tensor([v for _, v in points]).isfinite().all() for points in record["curves"].values())
    assert set(record["curves"]) > {"loss", "hard", "val"}
    info = read_info(run.dataset)
    net, config = load_student(run.out, info, make_task(info, run.config))
    package = load_package(run.out)
    assert package.num_parameters == sum(p.numel() for p in net.parameters())
    assert list(run.out.parent.glob("*.resume")) == []
    assert ("distilled" in config) == METHODS[name]().has_own("student_for_inference")


class Saved:
    """Checkpoints in memory, one for each training of a run; `kill` ends the run at a save."""

    def __init__(self, kill: tuple[str, int] | None = None) -> None:
        self.states: dict[str, dict[str, object]] = {}
        self.kill = kill

    def of(self, phase: str) -> Slot:
        return Slot(self, phase)


class Slot:
    """The checkpoint of one training."""

    def __init__(self, saved: Saved, phase: str) -> None:
        self.saved, self.phase = saved, phase

    def load(self) -> dict[str, object] | None:
        return copy.deepcopy(self.saved.states.get(self.phase))

    def save(self, step: int, state: dict[str, object]) -> None:
        self.saved.states[self.phase] = copy.deepcopy(state)
        if self.saved.kill == (self.phase, step):
            raise KeyboardInterrupt


def start(run: Job) -> tuple[Student, DistilledRun]:
    """The student and its objective, as `train_job` makes them."""
    cfg, info = run.config.student, read_info(run.dataset)
    task = make_task(info, run.config)
    bank = bank_split(run.pool, run.arm) if run.arm.bank else None
    seed_all(9, "init")
    config = {"net": cfg.net, "width": cfg.width, "precision": cfg.precision}
    net = build_predictor(config, info, task.num_outputs)
    data = Mixture(read_split(run.dataset, "train"), bank, real_share=None, batch_size=cfg.batch_size, seed=9)
    lookup = teacher_lookup(run, task.num_outputs, data.real, bank)
    student = Student(net, config, info, task, data, cfg, 9)
    return student, distilled_run(student, run.teacher, lookup)


def trained(run: Job, saved: Saved) -> dict[str, torch.Tensor]:
    """Weights of the student and of the KD loss after all phases, with a checkpoint at every step."""
    student, made = start(run)
    cfg, net = run.config.student, student.net
    before = {k: v.clone() for k, v in made.objective.teacher.net.state_dict().items()}
    train_phases(made, student, lambda unit, gen: augment(unit, "shift", gen), saved.of)
    fit_predictor(
        net,
        made.objective,
        Feed(made.batch_of, lambda u, g: u),
        cfg,
        Loop(9, checkpoint=saved.of("train"), save_every=1),
    )
    after = made.objective.teacher.net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), "the teacher is as it was, buffers too"
    distiller = {f"distiller.{k}": v for k, v in made.objective.distiller.state_dict().items()}
    return dict(net.state_dict()) | distiller


EARLY = [name for name in METHODS if len(METHODS[name]().phases()) > 1]


@pytest.mark.parametrize(("name", "scalar"), KINDS)
def test_a_killed_run_ends_on_the_same_weights(places: dict[bool, Path], name: str, scalar: bool) -> None:
    run = job(places[scalar], settings(scalar, distiller=name))
    straight = trained(run, Saved())
    saved = Saved(kill=("train", 1))
    with pytest.raises(KeyboardInterrupt):
        trained(run, saved)
    saved.kill = None
    resumed = trained(run, saved)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


@pytest.mark.parametrize("options", [{"level": "image", "refresh_epochs": 0.1, "pool_share": 0.5}, {"level": "label"}])
@pytest.mark.parametrize("scalar", [False, True])
def test_speculative_runs_resume_with_their_choice(
    places: dict[bool, Path], scalar: bool, options: dict[str, Any]
) -> None:
    options = options | {"tolerance": 2.0} if scalar else options
    cfg = settings(scalar, distiller="skd_speculative", distiller_options=options, num_steps=5)
    run = job(places[scalar], cfg)
    straight, saved = trained(run, Saved()), Saved(kill=("train", 3))
    with pytest.raises(KeyboardInterrupt):
        trained(run, saved)
    saved.kill = None
    resumed = trained(run, saved)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


@pytest.mark.parametrize("mode", ["batch", "adapt", "reset_then_adapt"])
@pytest.mark.parametrize("rows", ["fake", "all"])
def test_adapted_teachers_come_back_and_resume(places: dict[bool, Path], mode: str, rows: str) -> None:
    options = {"mode": mode, "rows": rows}
    run = job(places[False], settings(False, distiller="teacher_adaptation", distiller_options=options, num_steps=4))
    straight, saved = trained(run, Saved()), Saved(kill=("train", 2))
    with pytest.raises(KeyboardInterrupt):
        trained(run, saved)
    saved.kill = None
    resumed = trained(run, saved)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    frozen = trained(job(places[False], settings(False, distiller="kd", num_steps=4)), Saved())
    assert not torch.equal(straight["body.body.0.weight"], frozen["body.body.0.weight"])


@pytest.mark.parametrize("name", EARLY)
def test_a_finished_phase_is_not_repeated(places: dict[bool, Path], name: str) -> None:
    run, saved = job(places[False], settings(False, distiller=name)), Saved()
    first = trained(run, saved)
    phases = {key: value for key, value in saved.states.items() if key != "train"}
    assert phases and all(int(state["step"]) >= 1 for state in phases.values())  # type: ignore[call-overload]
    again = Saved()
    again.states = copy.deepcopy(phases)
    second = trained(run, again)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_list_is_the_weighted_sum(places: dict[bool, Path]) -> None:
    entries = [{"name": "kd", "weight": 2.0, "options": {"temperature": 3}}, {"name": "takd"}]
    cfg = settings(False, distillers=entries, task_weight=1.0)
    run = job(places[False], cfg, "both")
    train_job(run)
    curves = run.read()["curves"]
    assert {"0.kd.soft", "1.takd.soft"} < set(curves)
    for (_, loss), (_, hard), (_, kd), (_, takd) in zip(
        curves["loss"], curves["hard"], curves["0.kd.soft"], curves["1.takd.soft"], strict=True
    ):
        assert loss == pytest.approx(hard + kd + takd, rel=1e-5)


class OwnHead(Distiller):
    """A method that predicts through a layer of its own over the student, as SimKD does."""

    name, source, scalar = "own_head", "a test", True

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        super().build(student, teacher, data)
        self.head = nn.Linear(student.num_outputs, student.num_outputs)

    def losses(self, student: Any, teacher: Any, batch: Any, epoch: float = 0) -> dict[str, torch.Tensor]:
        return {"own": (self.head(student.pred) - teacher.pred).square().mean()}

    def student_for_inference(self) -> nn.Module:
        assert self.student_spec.net is not None
        return nn.Sequential(self.student_spec.net, self.head)


def test_a_student_with_a_head_of_its_own_ships_as_that(
    places: dict[bool, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "own_head", OwnHead)
    run = job(places[False], settings(False, distiller="own_head"), "own")
    train_job(run)
    info = read_info(run.dataset)
    net, config = load_student(run.out, info, make_task(info, run.config))
    package = load_package(run.out)
    assert isinstance(net, nn.Sequential) and config["distilled"]["parts"][0]["name"] == "own_head"
    plain = build_predictor(config, info, make_task(info, run.config).num_outputs)
    assert package.num_parameters == sum(p.numel() for p in plain.parameters()) + 3 * 3 + 3
    images = read_split(run.dataset, "val").images[:4]
    torch.testing.assert_close(package.model.run(images), net(images / 255.0).softmax(1))


def test_cached_teacher_equals_the_live_one_on_plain_images(places: dict[bool, Path]) -> None:
    runs = []
    for name in ("kd", "takd"):
        cfg = settings(False, distiller=name, teacher_view="clean")
        _, made = start(job(places[False], cfg))
        assert (made.objective.teacher.cached is not None) == (name == "kd")
        runs.append(made)
    table, batch = runs[0].objective.teacher.cached, runs[0].batch_of(0)
    assert table is not None
    live = runs[0].objective.teacher.net(batch.images_BCHW / 255.0)
    torch.testing.assert_close(table(batch.index_B), live)


def named(values: dict[str, Any], task: bool = False) -> Config:
    return settings(task, **values)


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"distiller": "takf"}, ["student.distiller must be one of", "did you mean 'takd'"]),
        (
            {"distiller": "takd", "distiller_options": {"width": 2}},
            ["student.distiller_options.width", "assistant_width"],
        ),
        ({"distiller_options": {"temperature": "hot"}}, ["student.distiller_options.temperature must be a number"]),
        ({"distillers": [{"name": "kd"}, {"name": "kdd"}]}, ["student.distillers[1].name", "did you mean 'kd'"]),
        (
            {"distillers": [{"name": "kd", "options": {"temperatur": 1}}, {"name": "takd"}]},
            ["student.distillers[0].options.temperatur", "did you mean 'temperature'"],
        ),
        (
            {"distillers": [{"name": "takd"}, {"name": "teacher_adaptation"}]},
            ["student.distillers: takd and teacher_adaptation both replace the teacher"],
        ),
    ],
)
def test_mistakes_are_named(student: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_distillers(named(student))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"distillers": [{"name": "kd", "wait": 1.0}]}, ["student.distillers[0].wait is not a known setting"]),
        ({"distillers": [{"name": "kd", "weight": 0.0}]}, ["weight must be positive"]),
        (
            {"distillers": [{"name": "kd"}], "distiller_options": {"temperature": 1}},
            ["distiller_options must be empty"],
        ),
        ({"task_weight": -1.0}, ["student.task_weight must be null, zero or more"]),
    ],
)
def test_malformed_lists_are_named(student: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        named(student)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_class_methods_are_refused_for_scalars_with_those_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    class Logits(OwnHead):
        name, scalar = "logits_only", False

    monkeypatch.setitem(METHODS, "logits_only", Logits)
    cfg = settings(True, distiller="logits_only")
    with pytest.raises(
        ConfigError, match=r"student.distiller logits_only compares class logits.* those that can: .*kd"
    ):
        check_distillers(cfg)
    check_distillers(settings(False, distiller="logits_only"))


def test_settings_of_kd_are_those_of_the_section() -> None:
    cfg = settings(False, distiller="kd", temperature=7.0, soft_weight=0.25)
    assert cfg.student.kd_parts == (DistillerConfig(name="kd", options={"temperature": 7.0, "soft_weight": 0.25}),)
    changed = with_student(cfg, distiller_options={"soft_weight": 0.5})
    assert changed.student.kd_parts[0].options == {"temperature": 7.0, "soft_weight": 0.5}
    assert distiller_label({"distiller": "kd", "distillers": [{"name": "crd"}, {"name": "kd"}]}) == "crd+kd"
    assert distiller_label({"distiller": "kd"}) == "kd"


def test_labels_on_a_circle_are_compared_the_short_way(places: dict[bool, Path]) -> None:
    cfg = settings(True)
    cfg = replace(cfg, data=replace(cfg.data, label_min=0.0, label_max=10.0, label_period=10.0, label_answer="scalar"))
    info = replace(read_info(places[True] / "dataset.h5"), label_period=10.0)
    task = make_task(info, cfg)
    assert task.period == pytest.approx(1.0)
    out, label = torch.tensor([[0.95], [0.5]]), torch.tensor([0.5, 5.0])
    assert task.loss(out, label).item() == pytest.approx(0.05, abs=1e-6)
    assert task.error(out, label).tolist() == pytest.approx([1.0, 0.0], abs=1e-5)
    distiller = make_distiller("kd", soft_weight=1.0)
    shape = ModelSpec(1, 1, ())
    distiller.build(shape, shape, DataSpec(2, 0, (1, 16, 16), period=task.period))
    term = distiller.losses(Outputs(out), Outputs(torch.tensor([[0.05], [0.5]])), Batch({}, label))["soft"]
    assert term.item() == pytest.approx(0.05, abs=1e-6)


def test_steps_are_those_asked_for() -> None:
    assert settings(False).student.num_steps == STEPS
