"""VAM: near the identity at first, in the student's graph, in the shipped net, its terms by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cgankd.distill.base import Distiller
from cgankd.distill.losses.virtual_attention import VirtualAttention, VirtualAttentionKD, stage_modules
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw


def built(student: nn.Module, **options: float) -> VirtualAttentionKD:
    method = toys.built(VirtualAttentionKD(**options), student, toys.net("plain-vgg", 8))  # type: ignore[arg-type]
    assert isinstance(method, VirtualAttentionKD)
    return method


def test_a_module_mixes_blocks_by_its_matrix() -> None:
    module = VirtualAttention(6, 3)
    x = draw(2, 6, 4, 4)
    matrix = module.matrix().detach()
    assert torch.allclose(matrix.sum(1), torch.ones(3)) and bool((matrix.diag() > 0.9).all())
    out = module(x).detach()
    for i in range(3):
        expected = sum(matrix[i, j] * x[:, 2 * j : 2 * j + 2] for j in range(3))
        assert torch.allclose(out[:, 2 * i : 2 * i + 2], torch.as_tensor(expected), atol=1e-6)
    assert VirtualAttention(6, 4).num_blocks == 2 and VirtualAttention(5, 4).num_blocks == 1


def test_modules_stand_in_the_students_graph_and_are_shipped() -> None:
    torch.manual_seed(0)
    student = toys.net().eval()
    x = torch.rand(3, *toys.SHAPE)
    plain = student(x).detach()
    method = built(student)
    changed = student(x)
    assert changed.shape == plain.shape and not torch.equal(changed, plain)
    changed.sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for n, p in method.named_parameters() if "mix" in n)
    shipped = method.student_for_inference()
    assert torch.equal(shipped(x), student(x)) and {n.split(".")[0] for n in shipped.state_dict()} == {
        "student",
        "attentions",
    }
    twin = copy.deepcopy(shipped)
    with torch.no_grad():
        method.attentions[0].theta.zero_()  # type: ignore[union-attr, operator]
    assert torch.equal(twin(x), changed) and not torch.equal(shipped(x), changed)
    # A fresh net and a fresh build take the weights of the old.
    again = toys.net().eval()
    rebuilt = built(again).student_for_inference()
    rebuilt.load_state_dict(shipped.state_dict())
    assert torch.allclose(rebuilt(x), shipped(x))


def test_a_second_build_replaces_the_first() -> None:
    student = toys.net().eval()
    built(student)
    second = built(student)
    places = stage_modules(student, toys.SHAPE)
    assert [len(p._forward_hooks) for p in places] == [1, 1]
    assert len(second.no_decay()) == 4


def test_terms_by_hand() -> None:
    torch.manual_seed(0)
    method = built(toys.net(), entropy_weight=0.5, soft_weight=0.9)
    s, t = draw(5, 3), draw(5, 3, seed=2)
    terms = method.losses(toys.only(pred=s), toys.only(pred=t), toys.batch(5))
    p, q = ((x / 4).softmax(1).double().numpy() for x in (t, s))
    assert float(terms["soft"]) == pytest.approx(0.9 * 16 * (p * np.log(p / q)).sum(1).mean(), rel=1e-4)
    row = np.exp([3, 0, 0, 0]) / np.exp([3, 0, 0, 0]).sum()
    assert float(terms["entropy"].detach()) == pytest.approx(-0.5 * (row * np.log(row)).sum(), rel=1e-4)
    number = Distiller.losses  # the base refuses what a method forgot
    with pytest.raises(NotImplementedError):
        number(method, toys.only(), toys.only(), toys.batch(1))


def test_a_net_whose_stage_has_no_module_is_refused() -> None:
    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def outputs(self, x: torch.Tensor):  # type: ignore[no-untyped-def]
            return toys.only(stages=[self.conv(x).relu()])

    with pytest.raises(ValueError, match="no module behind stage 0"):
        stage_modules(Loose(), toys.SHAPE)
