"""More of what holds for every KD loss: its least value, teacher runs a step, what the optimiser moves, words for users."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from cgankd.config.distill import DistillerConfig
from cgankd.data.batches import Batch as Rows
from cgankd.distill import Outputs, make_distiller
from cgankd.distill.base import Distiller, TaskNotSupported, describe
from cgankd.distill.composite import CompositeDistiller
from cgankd.distill.engine import Distillation, Negatives, Teacher, early_phases, only_moving
from cgankd.distill.methods import METHODS, distiller_of
from cgankd.fit.device import Forward
from cgankd.fit.predictor import make_optimizer
from cgankd.labels.task import make_task
from cgankd.rng import generator
from tests.distill.arms import settings
from tests.distill.toys import ROWS, SHAPE, Pair, outputs_of, pair, with_pred
from tests.pipelines.finished import made_data

KINDS = [(name, scalar) for name in METHODS for scalar in (False, True) if METHODS[name]().accepts(0 if scalar else 3)]


def engine(
    distiller: Distiller, both: Pair, *, cached: bool = False, clean: bool = False
) -> tuple[Distillation, list[int]]:
    """The objective of a student on the toy pair, and a list that grows by one with each run of the teacher."""
    scalar = both.data.num_classes == 0
    task = make_task(made_data(scalar).info, settings(scalar))
    calls: list[int] = []
    teacher = both.teacher.net
    assert teacher is not None and both.data.labels is not None
    # The first layer of the body runs once in each forward pass, with features or without.
    next(m for m in teacher.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(lambda *a: calls.append(1))
    flip = {"weak": lambda unit, gen: unit, "strong": lambda unit, gen: unit.flip(3)}
    negatives = None
    if distiller.needs.neg_index:
        negatives = Negatives(torch.arange(ROWS) if scalar else both.data.labels)
    table = torch.randn(ROWS, both.teacher.num_outputs, generator=generator("cache"))
    live = Teacher(teacher, "fp32", (lambda index: table[index]) if cached else None, clean)
    made = Distillation(task, distiller, live, flip, 0, ROWS, 3, negatives=negatives)
    return made, calls


def rows(scalar: bool, num: int = 6) -> tuple[torch.Tensor, Rows]:
    """Images in [0, 1] and their rows, the second half fake."""
    data = made_data(scalar).train
    images = torch.randint(256, (num, *SHAPE), dtype=torch.uint8, generator=generator("rows"))
    index, fake = torch.arange(num), torch.arange(num) >= num / 2
    return images / 255.0, Rows(images, data.labels[:num], index, fake)


def built(name: str, scalar: bool, **options: object) -> tuple[Distiller, Pair]:
    both, distiller = pair(scalar), make_distiller(name, **options)
    torch.manual_seed(4)
    distiller.build(both.student, both.teacher, both.data)
    return distiller, both


UNUSED = {("takd", "train"), ("ab", "train"), ("fsp", "train"), ("ifm", "train"), ("ifm", "auxiliary_start")}
"""Trainings in which nothing of the teacher is looked at."""


@pytest.mark.parametrize(("name", "scalar"), KINDS)
def test_the_teacher_runs_once_a_step_or_not_at_all(name: str, scalar: bool) -> None:
    distiller, both = built(name, scalar)
    made, calls = engine(distiller, both)
    unit, batch = rows(scalar)
    assert both.student.net is not None
    # Of a mixed batch an adapting teacher sees real and fake rows apart, each once.
    runs = 2 if name == "teacher_adaptation" else 1
    for phase in early_phases(made, both.student.net):
        calls.clear()
        phase.objective(Forward(phase.net, "fp32"), unit, batch, 0)
        assert len(calls) == (0 if (name, phase.name) in UNUSED else runs), phase.name
    calls.clear()
    made(Forward(both.student.net, "fp32"), unit, batch, 0)
    assert len(calls) == (0 if (name, "train") in UNUSED else runs)
    assert distiller.uses_teacher("train") == ((name, "train") not in UNUSED or name == "takd")
    if (
        distiller.needs.teacher_pred_only
        and distiller.needs.views == {"plain"}
        and not distiller.has_own("run_teacher")
    ):
        made, calls = engine(distiller, both, cached=True)
        made(Forward(both.student.net, "fp32"), unit, batch, 0)
        assert calls == []


def test_parts_and_wrappers_use_the_teacher_as_their_methods_do() -> None:
    ab, kd = make_distiller("ab"), make_distiller("kd")
    assert not CompositeDistiller([(1.0, ab)]).uses_teacher("train")
    both = CompositeDistiller([(1.0, ab), (1.0, make_distiller("ifm"))])
    assert not both.uses_teacher("train") and both.uses_teacher("0.boundaries") and both.uses_teacher("1.auxiliary")
    assert not both.uses_teacher("1.auxiliary_start") and CompositeDistiller([(1.0, ab), (1.0, kd)]).uses_teacher(
        "train"
    )
    assert make_distiller("ab", train_weight=1.0).uses_teacher("train")
    assert not make_distiller("skd_speculative", method="ab").uses_teacher("train")
    label = make_distiller("skd_speculative", method="ab", level="label")
    assert label.uses_teacher("train") and label.uses_teacher("boundaries")


@pytest.mark.parametrize("scalar", [False, True])
def test_a_method_that_asks_for_less_once_built_does_so_inside_others(scalar: bool) -> None:
    inside = [make_distiller("skd_speculative", method="atkd"), CompositeDistiller([(1.0, make_distiller("atkd"))])]
    for outer in inside:
        both = pair(scalar)
        assert outer.needs.pooled and not outer.needs.teacher_pred_only
        outer.build(both.student, both.teacher, both.data)
        assert (outer.needs.pooled, outer.needs.teacher_pred_only) == (scalar, not scalar)


# The least value of the methods that compare what both nets show as it is, where both show the same.
ENTROPY = {"nkd", "cckd_confidence", "ckd_comparative", "wttm"}
"""Cross-entropies, terms on labels, a teacher of another temperature: not zero between equals."""
RANKS = {"cmkd": 5e-3}
"""The student's soft ranks are near the teacher's hard ones."""
COMPARES = [
    (n, s)
    for n, s in KINDS
    if not list(built(n, s)[0].parameters()) and not built(n, s)[0].needs.input_grad and n != "ab" and n != "sdd"
]


@pytest.mark.parametrize(("name", "scalar"), COMPARES)
def test_between_equals_a_loss_is_at_its_least(name: str, scalar: bool) -> None:
    """Strictly below a mixed-up student, and zero where the loss is a distance."""
    options = {"mlkd": {"strong_label_weight": 0.0}, "uda": {"soft_weight": 1.0}}.get(name, {})
    distiller, both = built(name, scalar, **options)
    distiller.eval()
    batch, x = both.batch(distiller)
    noise = torch.randn(len(x), both.teacher.num_outputs, generator=torch.Generator().manual_seed(7))
    y = batch.y.repeat(len(x) // 6)
    knows = y[:, None] if scalar else 3.0 * torch.eye(3)[y]
    teacher = with_pred(outputs_of(both.teacher, x, distiller), knows + (0.01 if scalar else 0.3) * noise)

    def total(order: torch.Tensor) -> float:
        torch.manual_seed(6)
        stages, preacts = (tuple(p[order] for p in part) for part in (teacher.stages, teacher.preacts))
        pooled = None if teacher.pooled is None else teacher.pooled[order]
        mine = Outputs(teacher.pred[order], pooled, stages, preacts, teacher.head)
        return sum(v.item() for v in distiller.losses(mine, teacher, batch, epoch=1.0).values())

    same, shuffled = total(torch.arange(len(x))), total(torch.arange(len(x)).roll(1))
    assert math.isfinite(same) and same < shuffled
    label_term = name == "reg_kd" or (scalar and name == "cckd_confidence")
    if name not in ENTROPY and not label_term:
        assert same == pytest.approx(0, abs=RANKS.get(name, 1e-4) * max(1.0, shuffled))


@pytest.mark.parametrize(("name", "scalar"), KINDS)
def test_the_optimiser_holds_all_that_may_move_and_nothing_of_the_teacher(name: str, scalar: bool) -> None:
    distiller, both = built(name, scalar)
    student, teacher = both.student.net, both.teacher.net
    assert student is not None and teacher is not None
    made, _ = engine(distiller, both)
    cfg = settings(scalar).student

    def ids(optimizer: torch.optim.Optimizer) -> list[int]:
        return [id(p) for group in optimizer.param_groups for p in group["params"]]

    known = {id(p) for p in [*student.parameters(), *distiller.parameters()]}
    moved: set[int] = set()
    for phase in early_phases(made, student):
        with only_moving(phase.net, phase.moving):
            found = ids(make_optimizer(phase.net, cfg))
        assert sorted(found) == sorted({id(p) for p in phase.moving}) and set(found) <= known
        moved |= set(found)
    own = made.parameters()
    found = ids(make_optimizer(student, cfg, own, made.no_decay(), made.rates()))
    assert len(found) == len(set(found)) and set(found) <= known
    assert {id(p) for p in student.parameters()} | {id(p) for p in own} == set(found)
    assert not set(found) & {id(p) for p in teacher.parameters()}
    trainable = {id(p) for p in [*student.parameters(), *distiller.parameters()] if p.requires_grad}
    assert moved | set(found) == trainable


BARE = [(n, s) for n, s in KINDS if not list(built(n, s)[0].parameters())]


@pytest.mark.parametrize(("name", "scalar"), BARE)
def test_a_loss_without_modules_works_without_build(name: str, scalar: bool) -> None:
    both, distiller = pair(scalar), make_distiller(name)
    torch.manual_seed(4)
    batch, x = both.batch(distiller)
    student, teacher = (outputs_of(spec, x, distiller) for spec in (both.student, both.teacher))
    found = distiller.losses(student, teacher, batch)
    assert found and all(value.isfinite() and value.ndim == 0 for value in found.values())


@pytest.mark.parametrize(("name", "scalar"), [(n, s) for n in METHODS for s in (False, True) if (n, s) not in KINDS])
@pytest.mark.parametrize("wrapper", [None, "skd_speculative", "teacher_adaptation"])
def test_refusals_list_the_methods_that_can(name: str, scalar: bool, wrapper: str | None) -> None:
    both = pair(scalar)
    made = make_distiller(name) if wrapper is None else make_distiller(wrapper, method=name)
    kind = "scalar labels" if scalar else "classes"
    start = name if wrapper is None else f"{wrapper} around {name}"
    with pytest.raises(
        TaskNotSupported, match=rf"^{start} compares .*cannot distil {kind}; those that can: "
    ) as caught:
        made.build(both.student, both.teacher, both.data)
    listed = str(caught.value).partition("those that can: ")[2].split(", ")
    assert listed == [n for n in METHODS if (n, scalar) in KINDS] and name not in listed


def test_a_sum_names_the_part_that_cannot() -> None:
    both, parts = pair(True), [DistillerConfig(name="kd"), DistillerConfig(name="dkd")]
    with pytest.raises(TaskNotSupported, match="^dkd compares class logits.*; those that can: ab, "):
        distiller_of(parts).build(both.student, both.teacher, both.data)


@pytest.mark.parametrize("name", METHODS)
def test_docstrings_hold_shapes_and_flows_the_tasks_own_loss(name: str) -> None:
    assert "[" in (METHODS[name].__doc__ or "")
    weight = make_distiller(name).task_weight
    own = [row for row in describe(METHODS[name]) if row["distance"] == "task loss" and row["phase"] == "train"]
    assert [row["weight"] for row in own if row["source"] == "labels"] == (
        [f"task_weight, {weight:g}"] if weight else []
    )


@pytest.mark.parametrize(("name", "view"), [("sskd", "rot4"), ("mlkd", "strong"), ("kd", "plain")])
def test_the_tasks_loss_is_that_of_the_first_rows(name: str, view: str) -> None:
    distiller, both = built(name, False)
    made, _ = engine(distiller, both)
    unit, batch = rows(False)
    student = both.student.net
    assert student is not None
    with torch.no_grad():
        found = made(Forward(student, "fp32"), unit, batch, 0)["hard"]
        assert found.item() == pytest.approx(made.task.loss(student(unit), batch.labels_B).item(), rel=1e-5)


@pytest.mark.parametrize("fake", [0, 3, 6])
def test_fakes_with_labels_of_their_own_take_no_loss_on_the_asked_ones(fake: int) -> None:
    distiller, both = built("skd_speculative", False, level="label")
    made, _ = engine(distiller, both)
    unit, batch = rows(False)
    batch = replace(batch, is_fake_B=torch.arange(6) >= 6 - fake)
    student = both.student.net
    assert student is not None
    found = made(Forward(student, "fp32"), unit, batch, 0)
    miss = nn.functional.cross_entropy(student(unit), batch.labels_B, reduction="none")
    assert found["hard"].item() == pytest.approx(miss[: 6 - fake].sum().item() / 6, rel=1e-5)
    assert (found["proposed"] > 0) == (fake > 0)
