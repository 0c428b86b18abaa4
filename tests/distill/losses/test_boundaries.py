"""AB against torchdistill, OFD against numpy and scipy; phases, margins, weights."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm
from torch import nn

from cgankd.distill.base import ModelSpec
from cgankd.distill.losses.boundaries import (
    ActivationBoundaries,
    FeatureOverhaul,
    boundary_rows,
    fine_to_coarse,
    mean_negative,
    overhaul_margin,
    partial_rows,
)
from cgankd.distill.spec import model_spec
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw, maps, mid_level, pairs


def test_ab_is_that_of_torchdistill() -> None:
    torch.manual_seed(0)
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    ab = toys.built(ActivationBoundaries(boundary_weight=1.0, margin=0.7), student, teacher)
    assert isinstance(ab, ActivationBoundaries)
    ab.connectors = nn.ModuleList([nn.Identity(), nn.Identity()])
    s, t = [draw(5, 3, 8, 8), draw(5, 6, 4, 4)], [draw(5, 3, 8, 8, seed=1), draw(5, 6, 4, 4, seed=1)]
    ours = ab.phase_losses("boundaries", toys.only(preacts=s), toys.only(preacts=t), toys.batch(5))["boundary"]
    theirs = mid_level().AltActTransferLoss(pairs(2, [0.5, 1.0]), 0.7, "mean")(maps(s), maps(t))
    assert torch.allclose(ours, theirs, rtol=1e-5)


def test_ab_is_zero_beyond_the_margin_on_the_teachers_side() -> None:
    t = draw(4, 3, 5, 5)
    assert float(boundary_rows(t.sign() * 1.01, t, 1.0).sum()) == 0
    assert float(boundary_rows(-t.sign(), t, 1.0).sum()) == pytest.approx(4 * t.numel())


def test_ab_trains_first_and_then_keeps_still_unless_asked() -> None:
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    b = toys.batch()
    s, t = toys.shown(student, b), toys.frozen(teacher, b)
    quiet, loud = (toys.built(ActivationBoundaries(train_weight=w), student, teacher) for w in (0.0, 2.0))
    assert quiet.phases()[0].uses_student and quiet.phase_parameters("train") == []
    assert float(quiet.losses(s, t, b)["boundary"].detach()) == 0 and quiet.losses(s, t, b)["boundary"].requires_grad
    assert len(loud.phase_parameters("train")) == len(quiet.phase_parameters("boundaries"))
    first = float(loud.phase_losses("boundaries", s, t, b)["boundary"].detach())
    assert float(loud.losses(s, t, b)["boundary"].detach()) == pytest.approx(2 * first)


def test_the_margin_is_the_mean_of_the_negative_part_of_the_normal() -> None:
    scale, shift = torch.tensor([1.0, -0.5, 2.0, 0.1]), torch.tensor([0.0, 0.3, -1.0, 1.0])
    ours = overhaul_margin(scale, shift).numpy()
    for k in range(3):
        sd, mean = abs(float(scale[k])), float(shift[k])
        assert ours[k] == pytest.approx(truncnorm(-np.inf, -mean / sd, loc=mean, scale=sd).mean(), rel=1e-4)
    assert ours[3] == pytest.approx(-0.3)


def test_ofd_against_numpy() -> None:
    torch.manual_seed(0)
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    ofd = toys.built(FeatureOverhaul(overhaul_weight=0.5), student, teacher)
    assert isinstance(ofd, FeatureOverhaul)
    b = toys.batch()
    s, t = toys.shown(student.eval(), b), toys.frozen(teacher, b)
    ofd.eval()
    ours = float(ofd.losses(s, t, b)["overhaul"].detach())
    total = 0.0
    for k, weight in enumerate((0.5, 1.0)):
        guess = ofd.connectors[k](s.preacts[k]).detach().numpy()
        norm = toys.spec(teacher).norms[k]
        assert norm is not None
        margin = overhaul_margin(norm.weight.detach(), norm.bias.detach()).numpy()  # type: ignore[union-attr, operator]
        target = np.maximum(t.preacts[k].numpy(), margin[None, :, None, None])
        counts = (guess > target) | (target > 0)
        total += weight * float((((guess - target) ** 2) * counts).sum()) / 6
    assert ours == pytest.approx(0.5 * total, rel=1e-4)


def test_a_teacher_without_norms_takes_margins_from_its_first_batch() -> None:
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    ofd = FeatureOverhaul()
    bare = toys.spec(teacher)
    ofd.build(toys.spec(student), type(bare)(bare.num_outputs, bare.pooled_dim, bare.stages), toys.data())
    assert bool(ofd.get_buffer("margin_0").isnan().all())
    b = toys.batch()
    t = toys.frozen(teacher, b)
    ofd.losses(toys.shown(student, b), t, b)
    first = t.preacts[0].numpy()
    expected = [x[x < 0].mean() if (x < 0).any() else 0.0 for x in first.transpose(1, 0, 2, 3)]
    assert np.allclose(ofd.get_buffer("margin_0").numpy(), expected, rtol=1e-4)
    kept = ofd.get_buffer("margin_0").clone()
    other = toys.batch(4)
    ofd.losses(toys.shown(student, other), toys.frozen(teacher, other), other)
    assert torch.equal(kept, ofd.get_buffer("margin_0")) and "margin_0" in ofd.state_dict()


def test_small_terms() -> None:
    assert fine_to_coarse(3) == [0.25, 0.5, 1.0]
    assert torch.equal(mean_negative(torch.ones(2, 3, 2, 2)), torch.zeros(3))
    below = torch.full((1, 1, 2, 2), -3.0)
    assert float(partial_rows(below, below + 1).sum()) == 0 and float(partial_rows(below + 1, below).sum()) == 4


def fixed(name: str) -> tuple[nn.Module, ModelSpec]:
    """A net of the KD literature with batch norms of random weights, frozen as a teacher is, and its spec."""
    torch.manual_seed(0)
    net = make_predictor(name, NetShape(3, 3, 16), width=None, mean=(0.5,) * 3, std=(0.25,) * 3)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.2, 2.0)
            nn.init.normal_(m.bias)
    net.requires_grad_(False)
    return net, model_spec(net, toys.SHAPE)


# A block of resnet8 has a norm in its shortcut too; a map of mobilenetv2 may be a sum of two norms' outputs.
LAST_NORMS = {
    "resnet20": r"layer{}\.2\.bn2",
    "resnet8": r"layer{}\.0\.bn2",
    "resnet50": r"layer{}\.\d\.bn3",
    "shufflenetv1": r"stages\.{}\.\d\.expand\.1",
    "mobilenetv2": r"blocks\.\d\.\d\.conv\.7",
}


@pytest.mark.parametrize("name", LAST_NORMS)
def test_margins_of_a_residual_teacher_are_those_of_the_last_norm_of_the_branch(name: str) -> None:
    net, spec = fixed(name)
    places = {id(m): place for place, m in net.named_modules()}
    assert all(norm is not None for norm in spec.norms)
    ofd = FeatureOverhaul()
    ofd.build(toys.spec(toys.net()), spec, toys.data())
    assert len(spec.norms) == len(spec.stages)
    for k, norm in enumerate(spec.norms):
        number = k if name == "shufflenetv1" else k + 1
        assert re.search(LAST_NORMS[name].format(number), places[id(norm)])
        assert spec.norms[k].num_features == spec.stages[k][0]  # type: ignore[union-attr]
    for k, (_, j) in enumerate(ofd.pairs):
        norm = spec.norms[j]
        expected = overhaul_margin(norm.weight, norm.bias)  # type: ignore[union-attr, arg-type]
        assert torch.equal(ofd.get_buffer(f"margin_{k}"), expected)


def test_the_spec_leaves_the_net_as_it_is_and_joined_channels_have_no_norm() -> None:
    net, _ = fixed("resnet20")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.train()
    model_spec(net, toys.SHAPE)
    assert net.training and all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(not m._forward_hooks for m in net.modules())
    assert fixed("shufflenetv2")[1].norms == (None, None, None)
