"""ReviewKD: HCL against torchdistill, fusions by hand, warm-up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from cgankd.distill.losses.review import Fusion, ReviewKD, hierarchical_rows
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw, io, mid_level


@pytest.mark.parametrize("size", [1, 3, 4, 8])
def test_hcl_is_that_of_torchdistill(size: int) -> None:
    s, t = draw(3, 5, size, size), draw(3, 5, size, size, seed=1)
    theirs = mid_level().HierarchicalContextLoss("x", "output", "x", "output")(io(x=(s, None)), io(x=t))
    assert torch.allclose(hierarchical_rows(s, t).mean(), theirs, rtol=1e-5)


def test_a_fusion_weighs_its_map_and_the_enlarged_coarser_one() -> None:
    torch.manual_seed(0)
    fusion = Fusion(3, 4, 5, fuse=True).eval()
    x, coarse = draw(2, 3, 8, 8), draw(2, 4, 4, 4)
    out, fused = fusion(x, coarse)
    own = fusion.enter(x)
    big = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert fusion.attend is not None
    gate = torch.sigmoid(F.conv2d(torch.cat([own, big], 1), fusion.attend[0].weight, fusion.attend[0].bias))
    assert torch.allclose(fused, own * gate[:, :1] + big * gate[:, 1:], atol=1e-5)
    assert out.shape == (2, 5, 8, 8) and torch.allclose(out, fusion.leave(fused))
    assert torch.equal(fusion(x, None)[1], own)


def test_review_warms_up_and_trains_every_fusion() -> None:
    torch.manual_seed(0)
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    review = toys.built(ReviewKD(review_weight=5.0, warmup_epochs=20), student, teacher).eval()
    b = toys.batch()
    s, t = toys.shown(student.eval(), b), toys.frozen(teacher, b)
    values = [float(review.losses(s, t, b, epoch)["review"].detach()) for epoch in (0, 9, 19, 50)]
    assert values == pytest.approx([values[3] / 20, values[3] / 2, values[3], values[3]], rel=1e-5)
    review.losses(s, t, b)["review"].backward()
    weights = {name: p for name, p in review.named_parameters() if "conv" in name or p.ndim == 4}
    assert len(weights) == 3 * 2 + 2
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in weights.values())
    instant = toys.built(ReviewKD(warmup_epochs=0), student, teacher)
    assert bool(instant.losses(s, t, b)["review"].isfinite())


def test_the_teachers_maps_are_those_before_the_relu() -> None:
    torch.manual_seed(0)
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    review = toys.built(ReviewKD(), student, teacher).eval()
    b = toys.batch()
    s, t = toys.shown(student.eval(), b), toys.frozen(teacher, b)
    value = review.losses(s, t, b)["review"]
    zero = tuple(torch.zeros_like(x) for x in t.stages)
    assert torch.equal(review.losses(s, replace(t, stages=zero), b)["review"], value)
    assert not torch.equal(review.losses(s, replace(t, preacts=t.stages), b)["review"], value)
