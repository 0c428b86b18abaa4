"""What the student benchmarks share: ResNet-20 (or another) at 32 px, batch 64, alone or with a teacher.

Plain: float32, eager, NCHW, each image augmented by itself, the teacher run on each batch. Fast: the project's loop with
its own KD objective; with `cached` the teacher's outputs on the un-augmented images are computed once
(student.teacher_view: clean), which is a change of method: the teacher judges another picture than the student sees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import plain
from benchmarks.peak import work_flop
from benchmarks.place import place
from benchmarks.subjects import class_data, predictor
from benchmarks.timing import Agreement, Case, Side, Work, fast_plan, of_loop, relative_error, repeated
from cgankd.config import TeacherConfig
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.data.pixels import to_unit
from cgankd.distill.base import DataSpec
from cgankd.distill.engine import Distillation, Teacher
from cgankd.distill.losses.kd import KD
from cgankd.distill.spec import model_spec
from cgankd.fit.device import Plan, channels_last
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, Objective, fit_predictor, make_predict
from cgankd.labels.task import ClassTask
from cgankd.rng import generator

ALPHA, TEMPERATURE, BATCH, CHUNK = 0.7, 4.0, 64, 256
NUM_REAL = 4 * CHUNK
EPOCHS = 240
"""Passes of the published students over the data, over which cached teacher outputs are spread."""
TITLES = {"resnet20": "ResNet-20", "resnet32x4": "ResNet-32x4", "wrn40-2": "WRN-40-2", "wrn16-2": "WRN-16-2"}
CACHED_NOTE = "a change of method: the teacher sees the clean image, the live row is the like for like"


def config(steps: int, batch: int) -> TeacherConfig:
    return TeacherConfig(
        net="resnet20", num_steps=steps, batch_size=batch, optimizer="sgd", learning_rate=0.05, weight_decay=5e-4,
        schedule="constant", augment="shift+flip", precision="auto",
    )  # fmt: skip


def mixed_loss(task: ClassTask, out_BO: Tensor, label_B: Tensor, teacher_BO: Tensor | None) -> Tensor:
    """The hard loss, or (1 - alpha) hard + alpha soft."""
    hard = task.loss(out_BO, label_B)
    if teacher_BO is None:
        return hard
    return (1 - ALPHA) * hard + ALPHA * task.soft_loss(out_BO, teacher_BO, temperature=TEMPERATURE)


def build(side: Side, quick: bool, teacher: str | None, *, cached: bool = False, net: str = "resnet20") -> Work:
    train, task = class_data(32, 64 if quick else NUM_REAL)
    batch = 8 if quick else BATCH
    student = predictor(net, 32, task.num_outputs, quick=quick)
    guide = predictor(teacher, 32, task.num_outputs, quick=quick).eval().requires_grad_(False) if teacher else None
    one = to_unit(train.images[:2])
    flop = batch * (3 * work_flop(student, one) + (work_flop(guide, one) if guide and not cached else 0)) / 2
    if side == "plain":
        plain_flop = batch * (3 * work_flop(student, one) + (work_flop(guide, one) if guide else 0)) / 2
        return Work(repeated(plain_step(student, guide, task, batch)), batch, "fp32", plain_flop)
    plan = fast_plan(quick)
    objective = make_objective(student, guide, task, train.images, plan, cached=cached)

    def loop(steps: int, log: object) -> None:
        data = Mixture(train, None, real_share=None, batch_size=batch, seed=0)
        cfg = config(steps, batch)
        fit_predictor(
            student, objective, Feed(data.batch, lambda unit, gen: augment(unit, cfg.augment, gen)), cfg, Loop(0, plan, log),  # type: ignore[arg-type]
        )  # fmt: skip

    # Outputs of the teacher on N images serve EPOCHS * N images of the student.
    extra_s = teacher_share(guide, train.images[:CHUNK], quick) * batch / EPOCHS if guide and cached else 0.0
    note = CACHED_NOTE if cached else ""
    return Work(of_loop(loop), batch, "auto", flop, extra_s, note)


def make_objective(
    student: nn.Module,
    guide: nn.Module | None,
    task: ClassTask,
    images_NCHW: Tensor,
    plan: Plan,
    *,
    cached: bool,
) -> Objective:
    """What the project's loop minimises: the hard loss, or Hinton's with the teacher live or from a table."""
    if guide is None:
        return Plain(task)
    channels_last(guide)
    distiller = KD(temperature=TEMPERATURE, soft_weight=ALPHA)
    shape, num = (3, 32, 32), len(images_NCHW)
    specs = [model_spec(net, shape) for net in (student, guide)]
    distiller.build(*specs, DataSpec(num, task.num_classes, shape))
    table: Callable[[Tensor], Tensor] | None = None
    if cached:
        predict = make_predict(guide, "auto", CHUNK, plan=plan, expected=10**6)
        table = predict(images_NCHW).__getitem__
    teacher = Teacher(guide, "auto", table, cached, plan, 10**6)
    return Distillation(task, distiller, teacher, {}, seed=0, num_rows=num, num_steps=10**6)


def teacher_share(guide: nn.Module, images_BCHW: Tensor, quick: bool) -> float:
    """Seconds an image of the teacher, compiled where the machine can."""
    predict = make_predict(guide, "auto", CHUNK, plan=fast_plan(quick), expected=10**6)
    return sorted(repeated(lambda: predict(images_BCHW))(1, 3))[1] / len(images_BCHW)


def plain_step(student: nn.Module, guide: nn.Module | None, task: ClassTask, batch: int) -> Callable[[], None]:
    """One step of SGD in the plain way."""
    train, _ = class_data(32, NUM_REAL if batch == BATCH else 64)
    student.to(place())
    if guide is not None:
        guide.to(place())
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    gen = generator("plain student")

    def step() -> None:
        row_B = torch.randint(len(train), (batch,), generator=gen)
        unit_BCHW = plain.shifted_and_flipped(to_unit(train.images[row_B].to(place())), gen)
        with torch.no_grad():
            teacher_BO = guide(unit_BCHW) if guide is not None else None
        loss = mixed_loss(task, student.train()(unit_BCHW), train.labels[row_B].to(place()), teacher_BO)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def agree(quick: bool, name: str, batch: int = CHUNK) -> list[Agreement]:
    """Outputs of a net under both arithmetics, the fast one compiled for the batch of the row."""
    train, task = class_data(32, 16 if quick else batch)
    net = predictor(name, 32, task.num_outputs, quick=quick).eval()
    with torch.no_grad():
        expected = net(to_unit(train.images))
    found = make_predict(channels_last(net), "auto", batch, plan=fast_plan(quick), expected=10**6)(train.images)
    return [Agreement(f"outputs of {name}, relative error", relative_error(found, expected), 0.05)]


def case(name: str, student: str, teacher: str, *, cached: bool, target: float | None = None) -> Case:
    """The row of a student with Hinton's loss: the teacher's outputs from a table, or from a live teacher at each step."""
    nets = f"Student {TITLES.get(student, student)} from {TITLES.get(teacher, teacher)}, KD"
    view = "clean (cached, another method)" if cached else "augmented"
    return Case(
        name,
        f"{nets}, teacher_view {view}",
        target,
        partial(build, teacher=teacher, cached=cached, net=student),
        partial(agree, name=teacher, batch=CHUNK if cached else BATCH),
        repeats={"plain": 3, "fast": 20},
    )
