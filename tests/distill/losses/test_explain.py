"""KDExplainer: branches sharpen and harden, groups of classes, the shipped tree."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from cgankd.distill.composite import CompositeDistiller
from cgankd.distill.losses.explain import KDExplainer, StudentTree
from cgankd.distill.losses.kd import KD
from cgankd.fit.predictor import make_optimizer
from tests.distill import feature_toys as toys
from tests.distill.arms import settings
from tests.distill.logit_toys import kl, log_p


def tree(hard: bool = False) -> StudentTree:
    torch.manual_seed(0)
    made = StudentTree(4, (2, 3), 4, 5)
    with torch.no_grad():
        made.branches[0].copy_(torch.tensor([[1.0, 0], [0, 1], [1, 0]]))
        made.branches[1].copy_(torch.eye(3)[[0, 1, 2, 1, 0]])
    made.hard.fill_(hard)
    return made


def test_the_tree_says_who_hangs_below_whom() -> None:
    made = tree()
    assert made.parents() == [[0, 1, 0], [0, 1, 2, 1, 0]]
    assert made.groups() == [[[0, 2, 4], [1, 3]], [[0, 4], [1, 3], [2]]]


def test_branches_are_softmax_at_a_falling_temperature_then_one_hot() -> None:
    made = tree()
    for sharpness in (10.0, 1.0, 0.1):
        made.sharpness.fill_(sharpness)
        for share, b in zip(made.shares(), made.branches, strict=True):
            weight = (b / 0.5).softmax(1) ** (1 / sharpness)
            assert torch.allclose(share, weight / weight.sum(1, keepdim=True), atol=1e-6)
    for share in tree(hard=True).shares():
        assert set(share.unique().tolist()) == {0.0, 1.0} and torch.equal(share.sum(1), torch.ones(len(share)))


def test_a_hard_tree_takes_nothing_from_other_branches() -> None:
    made = tree(hard=True).eval()
    root = torch.rand(2, 4, 8, 8)
    before = made(root).detach()
    with torch.no_grad():
        # Block 1 of the first level: classes 1 and 3 hang below it.
        made.blocks[0][3].weight[4:8].mul_(-2)  # type: ignore[index]
    moved = (made(root).detach() - before).abs().sum(0) > 1e-7
    assert moved.tolist() == [False, True, False, True, False]


def test_training_sharpens_by_epochs_and_hardens_in_the_last_half() -> None:
    torch.manual_seed(0)
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    method = toys.built(KDExplainer(block_channels=4), student, teacher)
    assert isinstance(method, KDExplainer) and method.task_weight == 0
    b = toys.batch()
    s, t = toys.shown(student, b), toys.frozen(teacher, b)
    # 40 steps of 5 on 20 rows are ten epochs.
    seen = []
    for epoch in (0, 1.5, 4.9, 5.0):
        toys.total(method.losses(s, t, b, epoch)).backward(retain_graph=True)
        seen.append((float(method.tree.sharpness), bool(method.tree.hard)))
    assert seen == [(10.0, False), (5.0, False), (2.0, False), (pytest.approx(10 / 6), True)]
    assert method.no_decay() == {"tree.branches.0", "tree.branches.1", "tree.branches.2"}


def test_the_shipped_net_is_the_tree_on_the_student() -> None:
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    method = toys.built(KDExplainer(root_stage=-1), student, teacher)
    shipped = method.student_for_inference().eval()
    x = torch.rand(2, *toys.SHAPE)
    assert shipped(x).shape == (2, 3)
    twin = toys.built(KDExplainer(root_stage=-1), toys.net(), teacher).student_for_inference().eval()
    twin.load_state_dict(copy.deepcopy(shipped.state_dict()))
    assert torch.equal(twin(x), shipped(x))


def test_a_root_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"kdexplainer\.root_stage must be from -2 to 1"):
        toys.built(KDExplainer(root_stage=2), toys.net(), toys.net("plain-vgg", 8))


def test_branches_learn_at_a_fifth_of_the_rate() -> None:
    torch.manual_seed(0)
    student, method = toys.net(), KDExplainer(block_channels=4)
    toys.built(method, student, toys.net("plain-vgg", 8))
    cfg = replace(settings(False).student, optimizer="sgd", learning_rate=0.5, weight_decay=0.1)
    named = dict(method.named_parameters())
    rates = [(named[name], rate) for name, rate in method.rates().items()]
    optimizer = make_optimizer(student, cfg, list(method.parameters()), [p for p, _ in rates], rates)
    for p in method.parameters():
        p.grad = torch.ones_like(p)
    before = {name: p.detach().clone() for name, p in named.items()}
    optimizer.step()
    for name, p in named.items():
        branch = ".branches." in name
        # The first step of Nesterov's momentum 0.9 goes 1.9 gradients far.
        pull = 1.0 + 0.1 * before[name] if p.ndim > 1 and not branch else torch.ones_like(p)
        torch.testing.assert_close(p.detach(), before[name] - (0.1 if branch else 0.5) * 1.9 * pull)
    assert sorted({group.get("rate", 1.0) for group in optimizer.param_groups}) == [0.2, 1.0]


def test_a_sum_keeps_the_rates_of_its_parts() -> None:
    parts = [(1.0, KDExplainer(block_channels=4, branch_rate=0.5)), (2.0, KD())]
    method = CompositeDistiller(parts)
    toys.built(method, toys.net(), toys.net("plain-vgg", 8))
    assert method.rates() == {f"parts.0.tree.branches.{k}": 0.5 for k in range(3)}
    assert set(method.rates()) <= {name for name, _ in method.named_parameters()}


def test_both_terms_are_their_formulas_with_weights_of_their_own() -> None:
    torch.manual_seed(0)
    method = toys.built(
        KDExplainer(block_channels=4, label_weight=0.3, soft_weight=2.0), toys.net(), toys.net("plain-vgg")
    )
    method.eval()
    b, student = toys.batch(), toys.net()
    s, t = toys.shown(student.eval(), b), toys.only(pred=3 * torch.randn(6, 3))
    found = {name: float(value.detach()) for name, value in method.losses(s, t, b).items()}
    assert isinstance(method, KDExplainer)
    z = method.tree(s.stages[0]).detach()
    fine = log_p(z)[np.arange(6), b.y.numpy()]
    assert found["label"] == pytest.approx(-0.3 * fine.mean(), rel=1e-5)
    assert found["soft"] == pytest.approx(2.0 * 16 * kl(log_p(t.pred, 4), log_p(z, 4)).mean(), rel=1e-4)
