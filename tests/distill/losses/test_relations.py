"""SP, RKD and PKT against torchdistill; what they do not see; scopes and batch size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cgankd.distill.base import Distiller
from cgankd.distill.losses.relations import ProbabilisticTransfer, RelationalKD, SimilarityPreserving, angle_gap
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw, io, mid_level


def value(method: Distiller, s: Tensor, t: Tensor) -> Tensor:
    """On features [B, F], also shown as 1x1 maps."""
    shown = [toys.only(pooled=x, stages=[x[:, :, None, None]]) for x in (s, t)]
    return toys.total(method.losses(shown[0], shown[1], toys.batch(len(s))))


def test_sp_against_numpy_and_torchdistill() -> None:
    s, t = draw(7, 3, 4, 4), draw(7, 5, 2, 2)
    ours = SimilarityPreserving(similarity_weight=1.0).losses(
        toys.only(stages=[s]), toys.only(stages=[t]), toys.batch(7)
    )["similarity"]
    grams = [x.flatten(1).numpy() @ x.flatten(1).numpy().T for x in (s, t)]
    rows = [g / (g**2).sum(1, keepdims=True) ** 0.5 for g in grams]
    assert float(ours) == pytest.approx(((rows[0] - rows[1]) ** 2).sum() / 49, rel=1e-5)
    # torchdistill 1.1.5 divides the rows by their sum of absolute values instead (the second argument of `normalize`).
    theirs = mid_level().SPKDLoss("x", "x", "batchmean")
    theirs.matmul_and_normalize = lambda z: torch.nn.functional.normalize(z.flatten(1) @ z.flatten(1).T)
    assert torch.allclose(ours, theirs(io(x=s), io(x=t)), rtol=1e-5)


def test_pkt_is_that_of_torchdistill() -> None:
    s, t = draw(7, 12), draw(7, 9)
    ours = value(ProbabilisticTransfer(probability_weight=1.0), s, t)
    theirs = mid_level().PKTLoss("x", "output", "x", "output")(io(x=s.clone()), io(x=t.clone()))
    assert torch.allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize(("distance", "angle"), [(25.0, 0.0), (0.0, 50.0), (25.0, 50.0)])
def test_rkd_is_that_of_torchdistill(distance: float, angle: float) -> None:
    s, t = draw(6, 12), draw(6, 9)
    ours = value(RelationalKD(distance_weight=distance, angle_weight=angle), s, t)
    theirs = mid_level().RKDLoss("x", "x", distance, angle, "mean")(io(x=s), io(x=t))
    assert torch.allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize("method", [SimilarityPreserving(), RelationalKD(), ProbabilisticTransfer()])
def test_scale_and_rotation_of_the_student_do_not_matter(method: Distiller) -> None:
    s, t = draw(8, 5), draw(8, 7)
    turn = torch.linalg.qr(draw(5, 5)).Q
    assert torch.allclose(value(method, s, t), value(method, 3.0 * s @ turn, t), rtol=1e-3)


def test_rkd_does_not_see_a_shift_but_pkt_does() -> None:
    s, t = draw(8, 5), draw(8, 7)
    assert torch.allclose(value(RelationalKD(), s, t), value(RelationalKD(), s + 2.0, t), rtol=1e-3)
    pkt = ProbabilisticTransfer()
    assert not torch.allclose(value(pkt, s, t), value(pkt, s + 2.0, t), rtol=1e-2)


@pytest.mark.parametrize("method", [SimilarityPreserving, ProbabilisticTransfer])
def test_normalize_by_batch_multiplies_by_rows_over_64(method: type[Distiller]) -> None:
    s, t = draw(16, 5), draw(16, 7)
    assert torch.allclose(value(method(normalize_by_batch=True), s, t), value(method(), s, t) * 16 / 64)


@pytest.mark.parametrize("method", [SimilarityPreserving, ProbabilisticTransfer, RelationalKD])
def test_within_source_is_the_weighted_mean_of_both_sources(method: type[Distiller]) -> None:
    s, t = draw(8, 5), draw(8, 7)
    fake = torch.tensor([0, 0, 1, 0, 1, 0, 0, 1]).bool()
    b = replace(toys.batch(8), is_fake=fake)
    shown = [toys.only(pooled=x, stages=[x[:, :, None, None]]) for x in (s, t)]
    apart = toys.total(method(relational_scope="within_source").losses(shown[0], shown[1], b))
    by_hand = (5 * value(method(), s[~fake], t[~fake]) + 3 * value(method(), s[fake], t[fake])) / 8
    assert torch.allclose(apart, by_hand, rtol=1e-5)
    alone = replace(b, is_fake=torch.zeros(8, dtype=torch.bool))
    same = toys.total(method(relational_scope="within_source").losses(shown[0], shown[1], alone))
    assert torch.allclose(same, value(method(), s, t))


def test_equal_rows_give_no_exploding_gradient() -> None:
    s = draw(6, 4)
    s[1] = s[0]
    s.requires_grad_()
    angle_gap(s, draw(6, 5)).backward()  # type: ignore[no-untyped-call]
    assert s.grad is not None and float(s.grad.abs().max()) < 10


def test_angles_take_the_first_rows_only() -> None:
    s, t = draw(9, 5), draw(9, 7)
    few = RelationalKD(distance_weight=0.0, max_angle_rows=4)
    assert torch.allclose(value(few, s, t), value(RelationalKD(distance_weight=0.0), s[:4], t[:4]))
