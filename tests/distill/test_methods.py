"""What holds for every KD loss, and the errors of asking for one wrongly."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from cgankd.config import ConfigError
from cgankd.distill import make_distiller
from cgankd.distill.base import Distiller, TaskNotSupported, describe
from cgankd.distill.methods import METHODS
from cgankd.types import Outputs
from tests.distill.toys import Pair, outputs_of, pair, with_pred

KINDS = [(name, scalar) for name in METHODS for scalar in (False, True) if METHODS[name]().accepts(0 if scalar else 3)]


def ready(name: str, scalar: bool, **options: float) -> tuple[Distiller, Pair]:
    """A method with its defaults but for these options, built on the toy pair."""
    both, distiller = pair(scalar), make_distiller(name, **options)
    torch.manual_seed(4)
    distiller.build(both.student, both.teacher, both.data)
    return distiller, both


def terms(distiller: Distiller, both: Pair, num: int = 6, constant: bool = False) -> dict[str, torch.Tensor]:
    batch, x = both.batch(distiller, num, constant)
    torch.manual_seed(5)
    with torch.set_grad_enabled(distiller.needs.input_grad):
        teacher = distiller.run_teacher(
            lambda images: outputs_of(both.teacher, images, distiller),
            x,
            batch.is_fake.repeat(len(x) // num),  # type: ignore[union-attr]
            "train",
        )
    return distiller.losses(outputs_of(both.student, x, distiller), teacher, batch, epoch=1.0)


@pytest.mark.parametrize(("name", "scalar"), KINDS)
def test_gradients_reach_the_student_alone_and_are_finite(name: str, scalar: bool) -> None:
    distiller, both = ready(name, scalar)
    assert both.teacher.net is not None and both.student.net is not None
    before = {key: value.clone() for key, value in both.teacher.net.state_dict().items()}
    found = terms(distiller, both)
    assert found and all(value.ndim == 0 and value.requires_grad for value in found.values())
    sum(found.values()).backward()  # type: ignore[union-attr]
    grads = [p.grad for p in both.student.net.parameters() if p.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)
    # A method may do all its work on the student in a phase of its own, as ab does.
    assert any(grad.any() for grad in grads) or any(phase.uses_student for phase in distiller.phases())
    assert all(p.grad is None and not p.requires_grad for p in both.teacher.net.parameters())
    assert all(torch.equal(value, before[key]) for key, value in both.teacher.net.state_dict().items())


@pytest.mark.parametrize(("name", "scalar"), KINDS)
@pytest.mark.parametrize(("num", "constant"), [(1, False), (2, False), (4, True)])
def test_small_and_constant_batches_stay_finite(name: str, scalar: bool, num: int, constant: bool) -> None:
    distiller, both = ready(name, scalar)
    distiller.train(num > 1)  # Batch norms of connectors have no statistics of one image.
    found = terms(distiller, both, num, constant)
    assert all(math.isfinite(value.item()) for value in found.values()), found
    total = sum(found.values())
    assert isinstance(total, torch.Tensor)
    total.backward()  # type: ignore[no-untyped-call]
    assert both.student.net is not None
    assert all(p.grad is None or p.grad.isfinite().all() for p in both.student.net.parameters())


@pytest.mark.parametrize(("name", "scalar"), KINDS)
def test_every_trainable_tensor_moves_in_some_phase(name: str, scalar: bool) -> None:
    distiller, both = ready(name, scalar)
    owned = {id(p) for phase in distiller.phases() for p in distiller.phase_parameters(phase.name)}
    missing = [key for key, p in distiller.named_parameters() if p.requires_grad and id(p) not in owned]
    assert missing == []
    assert distiller.phases()[-1].share == 0 and all(p.share > 0 for p in distiller.phases()[:-1])
    names = {key for key, _ in distiller.named_parameters()}
    assert distiller.no_decay() <= names
    assert both.teacher.net is not None and both.student.net is not None
    nets = {id(p) for spec in (both.teacher, both.student) for p in spec.net.parameters()}  # type: ignore[union-attr]
    assert not nets & {id(p) for p in distiller.parameters()}, "nets are not the distiller's to own"


def compares_outputs_as_they_are(name: str, scalar: bool) -> bool:
    """True where the loss is a function of both nets' outputs alone, without modules, gradients or views of its own."""
    distiller, _ = ready(name, scalar)
    return not (list(distiller.parameters()) or distiller.needs.input_grad or distiller.needs.views != {"plain"})


PURE = [kind for kind in KINDS if compares_outputs_as_they_are(*kind)]


@pytest.mark.parametrize(("name", "scalar"), PURE)
def test_a_student_that_says_what_the_teacher_says_is_better_than_a_mixed_up_one(name: str, scalar: bool) -> None:
    distiller, both = ready(name, scalar)
    batch, x = both.batch(distiller)
    noise = torch.randn(6, both.teacher.num_outputs, generator=torch.Generator().manual_seed(7))
    knows = batch.y[:, None] if scalar else 3.0 * torch.eye(3)[batch.y]
    teacher = with_pred(outputs_of(both.teacher, x, distiller), knows + (0.01 if scalar else 0.3) * noise)

    def total(rows: torch.Tensor) -> float:
        torch.manual_seed(6)
        parts = (teacher.stages, teacher.preacts)
        stages, preacts = (tuple(p[rows].clone().requires_grad_(True) for p in part) for part in parts)
        pooled = None if teacher.pooled is None else teacher.pooled[rows].clone().requires_grad_(True)
        mine = type(teacher)(teacher.pred[rows].clone().requires_grad_(True), pooled, stages, preacts, teacher.head)
        return sum(v.item() for v in distiller.losses(mine, teacher, batch).values())

    same = total(torch.arange(6))
    assert math.isfinite(same) and same <= total(torch.tensor([1, 2, 0, 4, 5, 3])) + 1e-6


@pytest.mark.parametrize(("name", "scalar"), [kind for kind in KINDS if kind not in PURE])
def test_descent_on_student_and_own_modules_lowers_the_loss(name: str, scalar: bool) -> None:
    """Of methods with modules, gradients or views of their own; the others are held to their minimum above."""
    distiller, both = ready(name, scalar)
    phase = distiller.phases()[0].name
    student, still = both.student.net, len(distiller.phases()) > 1
    assert student is not None
    batch, x = both.batch(distiller)
    moving = [*distiller.phase_parameters(phase), *student.parameters()]
    optimizer, seen = torch.optim.Adam(moving, lr=1e-3), []
    for _ in range(8):
        torch.manual_seed(5)
        with torch.set_grad_enabled(distiller.needs.input_grad):
            teacher = outputs_of(both.teacher, x, distiller)
        mine = outputs_of(both.student, x, distiller)
        # A method with a first phase does its work there; the others have the one training.
        found = distiller.phase_losses(phase, mine, teacher, batch) if still else distiller.losses(mine, teacher, batch)
        loss = torch.stack(list(found.values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < seen[0], seen


WEIGHED = [(n, s) for n, s in KINDS if "fake_weight" in METHODS[n].options()]
RELATED = {("mlkd", False), ("sskd", False), ("dist", False), ("cmkd", True), ("atkd", True)}
"""Whose terms relate rows to one another whatever their weights (`relational_scope` keeps real and fake apart)."""


@pytest.mark.parametrize(("name", "scalar"), [kind for kind in WEIGHED if kind not in RELATED])
def test_fakes_of_no_weight_say_nothing(name: str, scalar: bool) -> None:
    # ab and fsp do their work in their phase unless asked otherwise; batch norms of connectors relate rows in training mode.
    options: dict[str, Any] = {"ab": {"train_weight": 1.0}, "fsp": {"training": "joint"}}.get(name, {})
    distiller, both = ready(name, scalar, fake_weight=0.0, **options)
    distiller.eval()
    batch, x = both.batch(distiller)
    student, teacher = shown_to(distiller, both, x)
    found = torch.stack(list(distiller.losses(student, teacher, batch, epoch=1.0).values())).sum()
    found.backward()  # type: ignore[no-untyped-call]
    assert batch.is_fake is not None
    shown = (student.pred, student.pooled, *student.stages, *student.preacts)
    parts = [part for part in shown if part is not None]
    grads = [part.grad for part in parts if part.grad is not None]
    # Several views of the images stand one below the other.
    fakes = [batch.is_fake.repeat(len(grad) // len(batch.is_fake)) for grad in grads]
    assert grads and all(not grad[fake].any() for grad, fake in zip(grads, fakes, strict=True))
    assert any(grad[~fake].any() for grad, fake in zip(grads, fakes, strict=True))


@pytest.mark.parametrize(("name", "scalar"), WEIGHED)
def test_batches_without_any_weight_have_finite_gradients(name: str, scalar: bool) -> None:
    distiller, both = ready(name, scalar, fake_weight=0.0)
    batch, x = both.batch(distiller)
    batch = replace(batch, is_fake=torch.ones(6, dtype=torch.bool))
    student, teacher = shown_to(distiller, both, x)
    found = torch.stack(list(distiller.losses(student, teacher, batch, epoch=1.0).values())).sum()
    (1e6 * found).backward()
    parts = [part for part in (student.pred, student.pooled, *student.stages) if part is not None]
    assert found.isfinite() and all(part.grad is None or part.grad.isfinite().all() for part in parts)


def shown_to(distiller: Distiller, both: Pair, x: torch.Tensor) -> tuple[Outputs, Outputs]:
    """Outputs of both nets, the student's as leaves, so that each row's gradient can be read off."""
    with torch.no_grad():
        mine, teacher = outputs_of(both.student, x, distiller), outputs_of(both.teacher, x, distiller)

    def leaf(part: torch.Tensor) -> torch.Tensor:
        return part.detach().clone().requires_grad_(True)

    pooled = None if mine.pooled is None else leaf(mine.pooled)
    stages, preacts = tuple(map(leaf, mine.stages)), tuple(map(leaf, mine.preacts))
    return Outputs(leaf(mine.pred), pooled, stages, preacts, mine.head), teacher


@pytest.mark.parametrize("name", [name for name, scalar in KINDS if scalar])
def test_labels_on_a_circle_are_compared_the_short_way_everywhere(name: str) -> None:
    both, distiller = pair(True), make_distiller(name)
    both.data = replace(both.data, period=1.0)
    torch.manual_seed(4)
    distiller.build(both.student, both.teacher, both.data)
    batch, x = both.batch(distiller)

    def taken(turn_s: float, turn_t: float, turn_y: float) -> list[float]:
        torch.manual_seed(5)
        student, teacher = outputs_of(both.student, x, distiller), outputs_of(both.teacher, x, distiller)
        student, teacher = (with_pred(o, o.pred + turn) for o, turn in ((student, turn_s), (teacher, turn_t)))
        turned = replace(batch, y=batch.y + turn_y)
        return [value.item() for value in copy.deepcopy(distiller).losses(student, teacher, turned, epoch=1.0).values()]

    plain = taken(0, 0, 0)
    # A whole turn of any of the three is the same angle.
    for turns in ((1.0, 0, 0), (0, -1.0, 0), (0, 0, 2.0), (-3.0, 1.0, 1.0)):
        assert taken(*turns) == pytest.approx(plain, rel=1e-3, abs=1e-5), turns


@pytest.mark.parametrize("name", ["takd", "ifm"])
def test_phases_compare_labels_on_a_circle_the_short_way(name: str) -> None:
    both, distiller = pair(True), make_distiller(name)
    both.data = replace(both.data, period=1.0)
    torch.manual_seed(4)
    distiller.build(both.student, both.teacher, both.data)
    batch, x = both.batch(distiller)
    teacher = outputs_of(both.teacher, x, distiller)
    phase = distiller.phases()[0].name

    def taken(turn_t: float, turn_y: float) -> float:
        shown = with_pred(teacher, teacher.pred + turn_t)
        found = copy.deepcopy(distiller).phase_losses(phase, teacher, shown, replace(batch, y=batch.y + turn_y))
        return sum(value.item() for value in found.values())

    assert taken(1.0, -2.0) == pytest.approx(taken(0.0, 0.0), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "scalar"), [(n, s) for n in METHODS for s in (False, True) if (n, s) not in KINDS] or [("kd", None)]
)
def test_labels_that_a_method_cannot_distil_are_refused(name: str, scalar: bool | None) -> None:
    if scalar is None:
        pytest.skip("every method here distils both kinds")
    both = pair(scalar)
    with pytest.raises(TaskNotSupported, match="scalar"):
        make_distiller(name).build(both.student, both.teacher, both.data)


@pytest.mark.parametrize("name", METHODS)
def test_methods_say_what_they_are(name: str) -> None:
    method = METHODS[name]
    assert method.name == name and method.source and (method.__doc__ or "").strip()
    assert method.flows and all(row["source"] and row["target"] for row in describe(method))


def test_errors_name_the_nearest_method_and_option() -> None:
    with pytest.raises(ConfigError, match=r"distiller must be one of .*, but is 'takf'; did you mean 'takd'\?"):
        make_distiller("takf")
    with pytest.raises(
        ConfigError, match=r"options of kd\.temprature is not an option of kd; did you mean 'temperature'\?"
    ):
        make_distiller("kd", temprature=3)
    with pytest.raises(ConfigError, match=r"options of kd\.temperature must be a number, but is 'warm'"):
        make_distiller("kd", temperature="warm")
    with pytest.raises(ConfigError, match=r"options of kd\.temperature must be"):
        make_distiller("kd", temperature=-1.0)
    with pytest.raises(ConfigError, match=r"mode must be one of frozen, batch, adapt, reset_then_adapt, but is 'warm'"):
        make_distiller("teacher_adaptation", mode="warm")
    with pytest.raises(ConfigError, match=r"replace must be true or false, but is 1"):
        make_distiller("skd_speculative", replace=1)


def test_whole_numbers_stand_for_floats() -> None:
    assert make_distiller("kd", temperature=2).temperature == 2.0
