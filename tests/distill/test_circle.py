"""Nets that answer with cosine and sine: every KD loss for scalars, and turning all labels changes none of them."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from cgankd.distill import make_distiller
from cgankd.distill.methods import METHODS
from cgankd.labels.circle import label_of, wrapped
from tests.distill.toys import SHAPE, Pair, outputs_of, pair

SCALAR = [name for name in METHODS if METHODS[name]().accepts(0)]
OWN_NETS = ("takd", "ifm")
"""Methods with nets of their own, whose random answers do not turn."""
NOT_TURNING = {"cmkd": "spearman"}
"""Ranks of cosines and sines depend on where the angles begin, a little."""


def circle() -> Pair:
    both = pair(True, num_outputs=2)
    both.data = replace(both.data, period=1.0)
    return both


def turn_head(net: nn.Module | None, turn: float) -> None:
    """Turn all answers of a net by so much of a circle, by its last layer."""
    assert net is not None
    head = net.outputs(torch.zeros(2, *SHAPE)).head  # type: ignore[operator]
    assert isinstance(head, nn.Linear)
    c, s = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    with torch.no_grad():
        matrix = torch.tensor([[c, -s], [s, c]])
        head.weight.copy_(matrix @ head.weight)
        head.bias.copy_(matrix @ head.bias)


@pytest.mark.parametrize("name", [name for name in SCALAR if name not in OWN_NETS])
def test_turning_all_labels_changes_no_loss_and_no_gradient(name: str) -> None:
    def taken(turn: float) -> tuple[dict[str, float], torch.Tensor]:
        both, distiller = circle(), make_distiller(name)
        torch.manual_seed(4)
        distiller.build(both.student, both.teacher, both.data)
        assert both.student.net is not None
        for spec in (both.student, both.teacher):
            turn_head(spec.net, turn)
        batch, x = both.batch(distiller)
        batch = replace(batch, y=torch.remainder(batch.y + turn, 1.0))
        student, teacher = (outputs_of(spec, x, distiller) for spec in (both.student, both.teacher))
        torch.manual_seed(5)
        terms = distiller.losses(student, teacher, batch, epoch=1.0)
        kept = {key: value for key, value in terms.items() if not key.endswith(NOT_TURNING.get(name, "-"))}
        both.student.net.zero_grad()
        torch.stack(list(kept.values())).sum().backward()
        first = next(p for p in both.student.net.parameters() if p.ndim == 4)
        return {key: value.item() for key, value in kept.items()}, torch.zeros(1) if first.grad is None else first.grad

    (plain, gradient), (turned, other) = taken(0.0), taken(0.375)
    assert turned == pytest.approx(plain, rel=1e-4, abs=1e-6) and all(map(math.isfinite, plain.values()))
    torch.testing.assert_close(other, gradient, rtol=1e-3, atol=1e-5 + 1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("name", OWN_NETS)
def test_methods_with_nets_of_their_own_take_pairs(name: str) -> None:
    both, distiller = circle(), make_distiller(name)
    torch.manual_seed(4)
    distiller.build(both.student, both.teacher, both.data)
    batch, x = both.batch(distiller)
    student, teacher = (outputs_of(spec, x, distiller) for spec in (both.student, both.teacher))
    phase = distiller.phases()[0].name
    terms = {**distiller.phase_losses(phase, student, teacher, batch), **distiller.losses(student, teacher, batch)}
    assert terms and all(value.isfinite() for value in terms.values())


def test_a_student_that_answers_as_its_teacher_has_no_soft_loss() -> None:
    both = circle()
    for name, key in (("kd", "soft"), ("reg_kd", "response")):
        distiller = make_distiller(name)
        distiller.build(both.student, both.teacher, both.data)
        batch, x = both.batch(distiller)
        teacher = outputs_of(both.teacher, x, distiller)
        unit = teacher.pred / teacher.pred.norm(dim=1, keepdim=True)
        found = distiller.losses(replace(teacher, pred=unit), teacher, batch)[key]
        assert found.item() == pytest.approx(0, abs=1e-5)
        against = distiller.losses(replace(teacher, pred=-unit), teacher, batch)[key]
        # The other end of the circle: a diameter, 2 / (2 pi) turns.
        assert against.item() == pytest.approx(distiller.soft_weight / math.pi, rel=1e-3)  # type: ignore[operator]


def test_a_proposed_label_is_an_angle_that_the_teacher_accepts() -> None:
    both = circle()
    distiller = make_distiller("skd_speculative", level="label", tolerance=0.1)
    distiller.build(both.student, both.teacher, both.data)
    gen = torch.Generator().manual_seed(1)
    student_BO, teacher_BO = torch.randn(50, 2, generator=gen), torch.randn(50, 2, generator=gen)
    label_B = copy.deepcopy(distiller).propose(student_BO, teacher_BO)  # type: ignore[operator]
    near_B = wrapped(label_of(student_BO, 1.0) - label_of(teacher_BO, 1.0), 1.0).abs() <= 0.1
    expected = torch.where(near_B, label_of(student_BO, 1.0), label_of(teacher_BO, 1.0))
    torch.testing.assert_close(label_B, expected)
    assert 0 < int(near_B.sum()) < 50
