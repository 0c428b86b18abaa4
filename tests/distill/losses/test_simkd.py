"""SimKD: what is compared for each kind of teacher, and the net it ships."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from cgankd.distill.base import ModelSpec
from cgankd.distill.losses.simkd import BorrowedHead, SimKD
from cgankd.types import Outputs
from tests.distill import feature_toys as toys


class Pooled(nn.Module):
    """A convolution, mean over positions, a linear layer: the usual shape of a net."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 3)

    def outputs(self, x: Tensor) -> Outputs:
        pre = self.conv(x)
        last = pre.relu()
        pooled = last.mean((2, 3))
        return Outputs(self.head(pooled), pooled, (last,), (pre,), self.head)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(x).pred


@pytest.mark.parametrize("kind", ["mean", "flat", "other"])
def test_the_kind_of_pooling_is_read_off_the_teacher(kind: str) -> None:
    torch.manual_seed(0)
    student = toys.net("convnet", 4)
    if kind == "mean":
        teacher: nn.Module = Pooled()
        out = teacher.outputs(torch.rand(2, *toys.SHAPE))  # type: ignore[operator]
        teacher_spec = type(toys.spec(student))(3, 6, (tuple(out.stages[0].shape[1:]),), teacher)
    else:
        teacher = toys.net("convnet" if kind == "flat" else "plain-vgg", 8)
        teacher_spec = toys.spec(teacher)
    simkd = SimKD()
    simkd.build(toys.spec(student), teacher_spec, toys.data())
    assert simkd.projector.pooling == kind and simkd.task_weight == 0
    b = toys.batch()
    s, t = toys.shown(student.eval(), b), toys.frozen(teacher, b)
    simkd.eval()
    ours = float(simkd.losses(s, t, b)["feature"].detach())
    target = t.pooled if kind == "other" else t.stages[-1]
    assert target is not None
    guess = simkd.projector(s.stages[-1]).detach()
    assert guess.shape == target.shape
    assert ours == pytest.approx(float(((guess - target) ** 2).mean()), rel=1e-5)


@pytest.mark.parametrize("kind", ["mean", "flat"])
def test_where_features_are_met_the_shipped_net_predicts_like_the_teacher(kind: str) -> None:
    torch.manual_seed(0)
    student = toys.net("convnet", 4)
    teacher = Pooled() if kind == "mean" else toys.net("convnet", 8)
    b = toys.batch()
    t = toys.frozen(teacher, b)
    assert t.pooled is not None
    simkd = SimKD()
    shapes = ModelSpec(3, t.pooled.shape[1], tuple(tuple(m.shape[1:]) for m in t.stages), teacher)  # type: ignore[misc]
    simkd.build(toys.spec(student), shapes, toys.data())
    simkd.projector.forward = lambda x: t.stages[-1]  # type: ignore[method-assign]
    shipped = simkd.student_for_inference().eval()
    assert isinstance(shipped, BorrowedHead)
    assert torch.allclose(shipped(b.x["plain"]), t.pred, atol=1e-5)


def test_the_head_is_a_frozen_copy_and_no_parameter_to_train() -> None:
    student, teacher = toys.net("convnet", 4), toys.net("plain-vgg", 8)
    simkd = toys.built(SimKD(), student, teacher)
    trained = {id(p) for p in simkd.phase_parameters("train")}
    names = {n for n, p in simkd.named_parameters() if id(p) not in trained}
    assert names == {"head.weight", "head.bias"} and not any(
        p.requires_grad for n, p in simkd.named_parameters() if n in names
    )
    assert all(p.requires_grad for p in teacher.parameters())
    shipped = simkd.student_for_inference()
    again = copy.deepcopy(shipped)
    x = torch.rand(2, *toys.SHAPE)
    assert torch.equal(shipped.eval()(x), again.eval()(x))
