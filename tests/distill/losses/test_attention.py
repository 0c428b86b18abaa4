"""AT against torchdistill in both forms, CAT-KD against class maps written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cgankd.distill.losses.attention import AttentionTransfer, ClassAttention, class_maps
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw, maps, mid_level, pairs


@pytest.mark.parametrize("form", ["code", "paper"])
def test_at_is_that_of_torchdistill(form: str) -> None:
    s = [draw(5, 3, 8, 8), draw(5, 6, 4, 4)]
    t = [draw(5, 7, 8, 8, seed=1), draw(5, 9, 4, 4, seed=1)]
    ours = AttentionTransfer(attention_weight=1.0, form=form).losses(  # type: ignore[arg-type]
        toys.only(stages=s), toys.only(stages=t), toys.batch(5)
    )
    theirs = mid_level().ATLoss(pairs(2), mode=form)(maps(s), maps(t))
    assert torch.allclose(ours["attention"], theirs, rtol=1e-5)


def test_at_does_not_see_the_scale_of_a_map_and_pools_to_the_smaller() -> None:
    s, t = [draw(4, 3, 8, 8)], [draw(4, 5, 4, 4)]
    small = [torch.nn.functional.avg_pool2d(s[0], 2)]
    at, b = AttentionTransfer(), toys.batch(4)
    value = at.losses(toys.only(stages=s), toys.only(stages=t), b)["attention"]
    assert torch.allclose(value, at.losses(toys.only(stages=small), toys.only(stages=[7 * t[0]]), b)["attention"])
    twice = at.losses(toys.only(stages=[torch.cat([s[0], s[0]])]), toys.only(stages=[torch.cat([t[0], t[0]])]), b)
    assert torch.allclose(value, twice["attention"])


def test_unlike_stage_counts_are_paired_by_height() -> None:
    s = [draw(2, 3, 8, 8), draw(2, 3, 4, 4)]
    t = [draw(2, 4, 16, 16), draw(2, 4, 8, 8), draw(2, 4, 4, 4)]
    at, b = AttentionTransfer(), toys.batch(2)
    full = at.losses(toys.only(stages=s), toys.only(stages=t), b)["attention"]
    assert torch.allclose(full, at.losses(toys.only(stages=s), toys.only(stages=t[1:]), b)["attention"])
    # No height in common: counted from the end.
    odd = [draw(2, 3, 3, 3)]
    last = at.losses(toys.only(stages=odd), toys.only(stages=t), b)["attention"]
    assert torch.allclose(last, at.losses(toys.only(stages=odd), toys.only(stages=t[2:]), b)["attention"])


def test_a_net_without_stages_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="teacher.net shows none"):
        AttentionTransfer().losses(toys.only(stages=[draw(2, 3, 4, 4)]), toys.only(), toys.batch(2))


@pytest.mark.parametrize("flat", [False, True])
def test_class_maps_average_to_the_logits(flat: bool) -> None:
    last = draw(5, 6, 4, 2)
    head = nn.Linear(48 if flat else 6, 3)
    pooled = last.flatten(1) if flat else last.mean((2, 3))
    cam = class_maps(toys.only(stages=[last], head=head), "student")
    assert cam.shape == (5, 3, 4, 2)
    assert torch.allclose(cam.mean((2, 3)) + head.bias, head(pooled), atol=1e-5)


@pytest.mark.parametrize("unit", [False, True])
def test_cat_kd_against_a_loop(unit: bool) -> None:
    s, t = draw(3, 4, 4, 4), draw(3, 5, 4, 4)
    heads = nn.Linear(4, 2), nn.Linear(5, 2)
    ours = ClassAttention(map_weight=2.0, unit_maps=unit).losses(
        toys.only(stages=[s], head=heads[0]), toys.only(stages=[t], head=heads[1]), toys.batch(3)
    )["class_maps"]
    total = 0.0
    for n in range(3):
        for k in range(2):
            cams = []
            for x, head in ((s, heads[0]), (t, heads[1])):
                cam = sum(head.weight[k, c].detach() * x[n, c] for c in range(x.shape[1]))
                assert isinstance(cam, torch.Tensor)
                grid = cam.view(2, 2, 2, 2).mean((1, 3)).flatten()
                cams.append(grid / grid.norm() if unit else grid)
            total += float((cams[0] - cams[1]).square().sum())
    assert float(ours.detach()) == pytest.approx(2.0 * total / (3 * 2 * 4), rel=1e-5)


def test_cat_kd_refuses_a_teacher_with_a_hidden_layer() -> None:
    with pytest.raises(ValueError, match="last layer of teacher.net"):
        toys.built(ClassAttention(), toys.net(), toys.net("plain-vgg", 8))
