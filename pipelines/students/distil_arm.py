"""The KD side of one student run: the loss built on both nets, its phases trained, and what the student's config must say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgankd.config import ConfigError, StudentConfig, to_dict
from cgankd.data.augment import augment
from cgankd.data.batches import Batch, Mixture
from cgankd.data.mix import Mixing
from cgankd.data.views import ViewBatches
from cgankd.distill.base import DataSpec
from cgankd.distill.engine import Augment, Distillation, Negatives, Teacher, early_phases, only_moving
from cgankd.distill.methods import distiller_of
from cgankd.distill.mixed import Shown
from cgankd.distill.refresh import ChosenRows, chooser_of
from cgankd.fit.course import Setback
from cgankd.fit.device import PLAIN, Plan
from cgankd.fit.loop import Loop
from cgankd.fit.predictor import Feed, fit_predictor, make_predict
from cgankd.rng import derive, seed_all
from cgankd.types import Checkpoint, DatasetInfo, PredictFn, Task
from pipelines.networks.distilled import spec_of
from pipelines.networks.predictor import build_predictor, load_predictor

SHAPE = ("net", "width", "precision", "input_size")
"""What the record of a KD loss keeps of the teacher's config: all that its modules are shaped by."""


@dataclass(frozen=True)
class Student:
    """One arm at one seed before its training: the net with the config that rebuilds it, what it learns from, and how."""

    net: nn.Module
    config: Mapping[str, Any]
    info: DatasetInfo
    task: Task
    data: Mixture
    cfg: StudentConfig
    seed: int
    plan: Plan = PLAIN
    soft_weight_M: Tensor | None = None
    """How much the teacher's answer counts on each fake; None = as on real images."""
    mix: Mixing | None = None
    views: ViewBatches | None = None
    """Stored views that its batches are drawn from; they are mixed already."""

    @property
    def batch_of(self) -> Callable[[int], Batch]:
        """The batch of a step."""
        return self.data.batch if self.views is None else self.views.batch


@dataclass(frozen=True)
class DistilledRun:
    """A student's objective and batches, the net that predicts, and the record that rebuilds it (None for a plain one)."""

    objective: Distillation
    batch_of: Callable[[int], Batch]
    inference: nn.Module
    record: dict[str, Any] | None
    curves: Mapping[str, list[tuple[int, float]]]
    """Curves beside those of the loss, which grow while batches are made."""


def distilled_run(
    student: Student,
    teacher_path: Path,
    lookup: Callable[[PredictFn], Callable[[Tensor], Tensor]],
    field: str = "student",
) -> DistilledRun:
    """Build the KD loss of the student section on the run's nets; `lookup` keeps the teacher's outputs on clean images, or
    on stored views.

    Raises ConfigError, naming the loss below `field`, where it does not suit the nets or what they are shown.
    """
    task, cfg, seed, plan = student.task, student.cfg, student.seed, student.plan
    teacher, teacher_config = load_predictor(teacher_path, student.info, task)
    distiller = distiller_of(cfg.kd_parts, field)
    seed_all(seed, "distiller")
    spec, labels_N, fake_N = data_spec(student)

    def make_net(own: Mapping[str, Any]) -> nn.Module:
        return build_predictor(dict(own), student.info, task.num_outputs)

    try:
        distiller.build(
            spec_of(student.net, student.config, make_net, spec.image_shape),
            spec_of(teacher, teacher_config, make_net, spec.image_shape),
            replace(spec, labels=labels_N, fake=fake_N),
        )
        Shown(task.num_classes, cfg.mixes, student.views is not None).check(distiller)
    except ValueError as error:  # TaskNotSupported, or nets that the method cannot use
        raise ConfigError(f"{field}.distiller: {error}") from error
    teacher.requires_grad_(False).eval()
    # With stored views the teacher's outputs are those on the view, and for the other rows on the clean image.
    clean, stored = cfg.teacher_view == "clean" and student.views is None, student.views is not None
    predict_teacher = make_predict(teacher, teacher_config["precision"], plan=plan, expected=len(labels_N))
    table: Callable[[Tensor], Tensor] | None = None
    outputs_alone = distiller.needs.teacher_pred_only and not distiller.has_own("run_teacher")
    if outputs_alone and (clean or (stored and distiller.needs.views == frozenset({"plain"}))):
        table = lookup(predict_teacher)
    negatives = None
    if distiller.needs.neg_index:
        negatives = Negatives(labels_N if task.num_classes else torch.arange(len(labels_N)))
    weight_M = student.soft_weight_M
    views: dict[str, Augment] = {
        "weak": lambda unit, gen: augment(unit, cfg.augment, gen),
        "strong": lambda unit, gen: augment(unit, cfg.strong_augment, gen),
    }
    objective = Distillation(
        task=task,
        distiller=distiller,
        teacher=Teacher(teacher, teacher_config["precision"], table, clean, plan, cfg.num_steps * cfg.batch_size),
        augments=views,
        seed=seed,
        num_rows=len(labels_N),
        num_steps=cfg.num_steps,
        task_weight=cfg.task_weight,
        negatives=negatives,
        soft_weight_N=None if weight_M is None else torch.cat([torch.ones(len(student.data.real)), weight_M]),
    )
    inference = distiller.student_for_inference()
    data = student.data
    batch_of, curves = student.batch_of, {}
    chooser = chooser_of(distiller)
    if chooser is not None and data.bank is not None:
        outputs_MO = predict_teacher(data.bank.images)
        predict = make_predict(inference, cfg.precision)
        chosen = ChosenRows(data, chooser, task, predict, outputs_MO, seed)
        batch_of, curves = chosen.batch, chosen.curves
    record = None
    if inference is not student.net:
        record = {
            "parts": [to_dict(part) for part in cfg.kd_parts],
            "teacher": {
                key: value
                for key, value in teacher_config.items()
                if key in ("net", "width", "precision", "input_size")
            },
            "data": {k: v for k, v in vars(spec).items() if k not in ("labels", "fake")},
        }
    return DistilledRun(objective, batch_of, inference, record, curves)


def data_spec(student: Student) -> tuple[DataSpec, Tensor, Tensor]:
    """The training set without and with its labels [N + M] as in `Batch.y` and marks of the fakes [N + M]."""
    data, info, task = student.data, student.info, student.task
    splits = [data.real] if data.bank is None else [data.real, data.bank]
    labels_N = torch.cat([task.targets(split.labels) for split in splits])
    fake_N = torch.arange(len(labels_N)) >= len(data.real)
    shape = (info.channels, info.image_size, info.image_size)
    spec = DataSpec(
        num_samples=len(labels_N),
        num_classes=task.num_classes,
        image_shape=shape,
        period=task.period,
        num_steps=student.cfg.num_steps,
        batch_size=student.cfg.batch_size,
    )
    return spec, labels_N, fake_N


def train_phases(
    run: DistilledRun,
    student: Student,
    view: Augment,
    checkpoint_of: Callable[[str], Checkpoint | None] = lambda name: None,
) -> list[Setback]:
    """Train the phases before the student's own, each with its own optimiser; a finished one is loaded, not repeated.

    Returns the setbacks that there were.
    """
    cfg, setbacks = student.cfg, list[Setback]()
    for phase in early_phases(run.objective, student.net):
        steps = max(1, round(phase.share * cfg.num_steps))
        rate = cfg.learning_rate if phase.learning_rate is None else phase.learning_rate
        seed, checkpoint = derive(student.seed, "phase", phase.name), checkpoint_of(phase.name)
        loop = Loop(seed, student.plan, checkpoint=checkpoint, who=f"phase {phase.name}", section="student")
        with only_moving(phase.net, phase.moving):
            fit_predictor(
                phase.net,
                phase.objective,
                Feed(student.batch_of, view, student.mix),
                replace(cfg, num_steps=steps, learning_rate=rate, tune="all", head_rate=1.0),
                loop,
                keep_last=True,
            )
        setbacks += [loop.course.setback] if loop.course.setback is not None else []
    return setbacks
