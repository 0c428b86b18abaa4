"""SSKD: both losses against torchdistill, which rows are kept, the head's phase."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cgankd.distill.losses.selfsupervision import SelfSupervisedKD, least_wrong, similarities, unturned_first
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw, io, mid_level


class Same(torch.nn.Module):
    """Stands in for the head."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def by_image(rows: Tensor) -> Tensor:
    """Our order (all unturned, then all by 90, 180, 270) to torchdistill's, the four of an image together."""
    return rows.view(4, -1, rows.shape[1]).transpose(0, 1).reshape(rows.shape)


def sskd(**options: float) -> SelfSupervisedKD:
    torch.manual_seed(0)
    method = SelfSupervisedKD(**options)
    toys.built(method, toys.net(), toys.net("plain-vgg", 8))
    method.head_s, method.head_t = Same(), Same()  # type: ignore[assignment]
    return method


@pytest.mark.parametrize(("wrong", "wrong_similar"), [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0)])
def test_training_loss_is_that_of_torchdistill(wrong: float, wrong_similar: float) -> None:
    pred_s, pooled_s, pooled_t = (draw(24, f) for f in (3, 7, 9))
    pred_t = 2 * draw(24, 3, seed=5)
    b = toys.batch(6)
    ours = sskd(keep_wrong=wrong, keep_wrong_similar=wrong_similar).losses(
        toys.only(pred=pred_s, pooled=pooled_s), toys.only(pred=pred_t, pooled=pooled_t), b
    )
    theirs = mid_level().SSKDLoss(
        "f", "f", "s", "s", 4.0, 0.5, 4.0, wrong_similar, wrong, loss_weights=[0, 0.9, 10, 2.7]
    )
    expected = theirs(io(f=by_image(pred_s), s=by_image(pooled_s)), io(f=by_image(pred_t), s=by_image(pooled_t)), b.y)
    assert torch.allclose(toys.total(ours), expected, rtol=1e-4)


def test_the_heads_phase_is_that_of_torchdistill() -> None:
    pooled = draw(24, 9)
    ours = sskd().phase_losses("self_supervision", toys.only(), toys.only(pooled=pooled), toys.batch(6))
    theirs = mid_level().AuxSSKDLoss("s")({}, io(s=by_image(pooled)))
    assert torch.allclose(ours["self_supervision"], theirs, rtol=1e-5)


def test_least_wrong_keeps_the_right_and_the_nearly_right() -> None:
    score = torch.tensor([[3.0, 2, 1], [1, 2, 3], [2, 3, 1], [1, 3, 2], [3, 2, 1]])
    right = torch.tensor([0, 0, 0, 0, 1])
    assert least_wrong(score, right, 0.0).tolist() == [0]
    assert least_wrong(score, right, 0.5).tolist() == [0, 2, 4]
    assert least_wrong(score, right, 1.0).tolist() == [0, 1, 2, 3, 4]


def test_similarity_finds_the_image_behind_a_turned_one() -> None:
    rows = torch.eye(5).repeat(4, 1)
    assert torch.equal(similarities(rows).argmax(1), torch.arange(5).repeat_interleave(3))
    plain, turned = unturned_first(torch.arange(8.0)[:, None])
    assert plain[:, 0].tolist() == [0, 1] and turned[:, 0].tolist() == [2, 4, 6, 3, 5, 7]


def test_the_teachers_head_moves_in_its_phase_only() -> None:
    student, teacher = toys.net(), toys.net("plain-vgg", 8)
    method = toys.built(SelfSupervisedKD(), student, teacher)
    b = toys.batch(view="rot4")
    s, t = toys.shown(student, b, "rot4"), toys.frozen(teacher, b, "rot4")
    assert isinstance(method, SelfSupervisedKD)
    toys.total(method.losses(s, t, b)).backward()
    assert all(p.grad is None for p in method.head_t.parameters())
    assert all(p.grad is not None for p in method.head_s.parameters())
    assert {id(p) for p in method.phase_parameters("train")} == {id(p) for p in method.head_s.parameters()}
    method.phase_losses("self_supervision", s, t, b)["self_supervision"].backward()
    assert all(p.grad is not None for p in method.head_t.parameters())
