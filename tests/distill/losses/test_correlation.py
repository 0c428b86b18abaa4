"""dist against torchdistill; cmkd against scipy's correlations and ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy, pearsonr, rankdata, spearmanr
from torchdistill.losses.mid_level import DISTLoss

from cgankd.distill.base import TaskNotSupported
from cgankd.distill.losses.correlation import CorrelationMatching, DistKD, ranks, soft_ranks
from cgankd.types import Outputs
from tests.distill.logit_toys import TORCHDISTILL, batch, build, io_dict, labels, log_p, logits, number, terms, total

S, T, Y = logits(name="student"), logits(name="teacher"), labels()


def test_dist_is_the_one_of_torchdistill() -> None:
    other = DISTLoss(**TORCHDISTILL, beta=0.7, gamma=1.3, tau=4.0)
    method = DistKD(inter_weight=0.7, intra_weight=1.3, loss_weight=1.0)
    assert total(method, S, T, batch(Y)) == pytest.approx(number(other(io_dict(S), io_dict(T))), rel=1e-6)


def test_dist_is_zero_between_equals_and_blind_to_one_row() -> None:
    assert total(DistKD(), T, T, batch(Y)) == pytest.approx(0, abs=1e-5)
    one = terms(DistKD(), S[:1], T[:1], batch(Y[:1]))
    assert one["intra"] == pytest.approx(2 * 16)


def test_dist_can_keep_real_and_fake_apart() -> None:
    fake = [True] * 3 + [False] * 5
    apart = terms(DistKD(relational_scope="within_source"), S, T, batch(Y, fake))["intra"]
    halves = [terms(DistKD(), S[r], T[r], batch(Y[r]))["intra"] for r in (slice(0, 3), slice(3, 8))]
    assert apart == pytest.approx(3 / 8 * halves[0] + 5 / 8 * halves[1])
    assert terms(DistKD(relational_scope="within_source"), S, T, batch(Y, [True] * 8)) == terms(
        DistKD(), S, T, batch(Y)
    )


def test_ranks_are_those_of_scipy_and_the_soft_ones_tend_to_them() -> None:
    x = torch.tensor([[3.0, 1.0, 1.0, -2.0], [0.0, 0.0, 0.0, 5.0]], dtype=torch.float64)
    np.testing.assert_array_equal(ranks(x).numpy(), rankdata(x.numpy(), axis=1))
    np.testing.assert_allclose(soft_ranks(x, 1e-3).numpy(), rankdata(x.numpy(), axis=1))


@pytest.mark.parametrize("weighting", ["entropy", "entropy_inverse", "equal"])
def test_cmkd_weighs_pearson_and_spearman_by_the_teachers_entropy(weighting: str) -> None:
    s, t = S.detach().numpy(), T.detach().numpy()
    want_values = want_orders = 0.0
    for row_s, row_t in zip(s, t, strict=True):
        z_s, z_t = ((r - r.mean()) / (r.std(ddof=1) + 1e-7) for r in (row_s, row_t))
        h = entropy(np.exp(log_p(z_t, 4.0))) / math.log(5)
        share = {"entropy": h, "entropy_inverse": 1 - h, "equal": 0.5}[weighting]
        want_values += 2 * share * (1 - pearsonr(np.exp(log_p(z_s)), np.exp(log_p(z_t)))[0]) / 8
        want_orders += 2 * (1 - share) * (1 - spearmanr(z_s, z_t)[0]) / 8
    found = terms(CorrelationMatching(weighting=weighting, rank_softness=1e-4), S, T, batch(Y))  # type: ignore[arg-type]
    assert found["pearson"] == pytest.approx(want_values, rel=1e-5)
    assert found["spearman"] == pytest.approx(want_orders, rel=1e-5)


def test_cmkd_ranks_the_teachers_best_classes_alone() -> None:
    s, t = logits(4, 9, "wide"), logits(4, 9, "wide teacher")
    best = np.argsort(-t.detach().numpy(), axis=1)[:, :3]
    rows = [spearmanr(a[i], b[i])[0] for a, b, i in zip(s.detach().numpy(), t.detach().numpy(), best, strict=True)]
    method = CorrelationMatching(weighting="equal", rank_softness=1e-4, top_classes=3)
    found = terms(method, s, t, batch(labels(4, 9)))["spearman"]
    assert found == pytest.approx(1 - np.mean(rows), rel=1e-5)


def test_cmkd_is_near_zero_between_equals() -> None:
    assert total(CorrelationMatching(rank_softness=0.01), T, T, batch(Y)) == pytest.approx(0, abs=0.02)
    assert total(CorrelationMatching(), S, T, batch(Y)) > 0.2


def test_cmkd_of_scalars_correlates_over_the_batch() -> None:
    s, t = logits(40, 1, "scalar", 0.2), logits(40, 1, "scalar teacher", 0.2)
    found = terms(CorrelationMatching(rank_softness=1e-4), s, t, batch(torch.zeros(40)))
    a, b = s.detach().numpy()[:, 0], t.detach().numpy()[:, 0]
    assert found["pearson"] == pytest.approx(1 - pearsonr(a, b)[0], rel=1e-6)
    assert found["spearman"] == pytest.approx(1 - spearmanr(a, b)[0], rel=1e-4)
    assert total(CorrelationMatching(rank_softness=1e-4), 3 * t + 1, t, batch(torch.zeros(40))) == pytest.approx(
        0, abs=1e-3
    )


def test_cmkd_of_angles_does_not_see_whole_turns() -> None:
    t = torch.linspace(0.1, 0.8, 12, dtype=torch.float64)[:, None]
    s = t + 0.05 * logits(12, 1, "angles", 1.0)
    circle = build(CorrelationMatching(), num_classes=0, period=1.0)
    turned = s + (torch.arange(12) % 2)[:, None]
    y = torch.zeros(12)
    assert total(circle, turned, t, batch(y)) == pytest.approx(total(circle, s, t, batch(y)), abs=1e-6)


@pytest.mark.parametrize("num", [1, 2])
def test_cmkd_of_few_scalars_has_a_gradient(num: int) -> None:
    s = torch.full((num, 1), 0.5, requires_grad=True)
    sum(
        CorrelationMatching().losses(Outputs(s), Outputs(torch.rand(num, 1)), batch(torch.zeros(num))).values()
    ).backward()  # type: ignore[union-attr]
    assert torch.isfinite(s.grad).all()  # type: ignore[arg-type]


def test_bad_options_and_scalars_are_named() -> None:
    with pytest.raises(ValueError, match="dist.relational_scope must be one of mixed, within_source, but is 'all'"):
        DistKD(relational_scope="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cmkd.top_classes must be 2 or above"):
        CorrelationMatching(top_classes=1)
    with pytest.raises(TaskNotSupported, match="dist compares class logits"):
        build(DistKD(), num_classes=0)
