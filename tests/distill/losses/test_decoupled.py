"""dkd and atkd against plain numpy and the identities of the decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cgankd.distill.base import TaskNotSupported
from cgankd.distill.losses.decoupled import AdaptiveTeaching, DecoupledKD, warm_up
from cgankd.distill.losses.logit_terms import decoupled, split
from cgankd.types import Outputs
from tests.distill.logit_toys import batch, build, kl, labels, log_p, logits, number, terms, total

S, T, Y = logits(name="student"), logits(name="teacher"), labels()


def parts(student: Tensor, teacher: Tensor, y: Tensor, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """TCKD and NCKD of each row from plain probabilities."""
    target, others = [], []
    for s, t, label in zip(student.detach().numpy(), teacher.detach().numpy(), y.tolist(), strict=True):
        p_s, p_t = np.exp(log_p(s, temperature)), np.exp(log_p(t, temperature))
        two_s, two_t = (np.array([p[label], 1 - p[label]]) for p in (p_s, p_t))
        target.append((two_t * np.log(two_t / two_s)).sum())
        q_s, q_t = (np.delete(p, label) / np.delete(p, label).sum() for p in (p_s, p_t))
        others.append((q_t * np.log(q_t / q_s)).sum())
    return np.array(target), np.array(others)


def test_dkd_is_its_formula() -> None:
    target, others = parts(S, T, Y, 4.0)
    found = terms(DecoupledKD(), S, T, batch(Y), epoch=30)
    assert found["target"] == pytest.approx(16 * target.mean(), rel=1e-9)
    assert found["non_target"] == pytest.approx(8 * 16 * others.mean(), rel=1e-9)


def test_kl_is_tckd_plus_the_uncertainty_times_nckd() -> None:
    target_B, others_B = decoupled(split(S, Y), split(T, Y))
    unsure = 1 - np.exp(log_p(T))[np.arange(8), Y.numpy()]
    whole = target_B.detach().numpy() + unsure * others_B.detach().numpy()
    np.testing.assert_allclose(whole, kl(log_p(T), log_p(S)), rtol=1e-10)


def test_two_classes_have_no_others() -> None:
    s, t, y = logits(classes=2), logits(classes=2, name="teacher"), labels(classes=2)
    assert terms(DecoupledKD(), s, t, batch(y))["non_target"] == 0


def test_dkd_ramps_up_over_its_epochs() -> None:
    full = total(DecoupledKD(warmup_epochs=0), S, T, batch(Y))
    assert total(DecoupledKD(), S, T, batch(Y), epoch=4) == pytest.approx(full * 5 / 20)
    assert total(DecoupledKD(), S, T, batch(Y), epoch=19) == pytest.approx(full)
    assert [warm_up(e, 20) for e in (0, 9, 400)] == [0.05, 0.5, 1.0]


def test_dkd_is_finite_at_a_gap_of_600() -> None:
    s = torch.tensor([[0.0, 600.0, 0.0]], requires_grad=True)
    t = torch.tensor([[600.0, 0.0, 300.0]])
    found = DecoupledKD(temperature=1.0, warmup_epochs=0).losses(Outputs(s), Outputs(t), batch(torch.tensor([0])))
    assert number(found["target"]) == pytest.approx(600, rel=1e-3)
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert torch.isfinite(s.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(("reverse", "num"), [(False, 8), (True, 8), (False, 7)])
def test_atkd_is_its_formula(reverse: bool, num: int) -> None:
    s, t, y = S[:num], T[:num], Y[:num]
    target, others = parts(t, s, y) if reverse else parts(s, t, y)
    unsure = 1 - np.exp(log_p(t))[np.arange(num), y.numpy()]
    hard = unsure >= np.median(unsure)  # Of seven rows the median itself is hard.
    found = terms(AdaptiveTeaching(reverse=reverse), s, t, batch(y))
    assert found["easy"] == pytest.approx(0.2 * others[~hard].mean(), rel=1e-9)
    assert found["hard"] == pytest.approx(0.8 * (target + others)[hard].mean(), rel=1e-9)


def test_atkd_calls_rows_hard_whose_label_the_teacher_doubts() -> None:
    t = 10 * torch.eye(4)
    s = t.clone()
    s[3] = torch.tensor([9.0, 1.0, 0.0, 2.0])
    y = torch.tensor([0, 1, 2, 0])
    found = terms(AdaptiveTeaching(hard_quantile=0.9), s, t, batch(y))
    assert found["easy"] == pytest.approx(0, abs=1e-6)
    assert found["hard"] > 1


@pytest.mark.parametrize("num", [1, 2, 8])
def test_atkd_is_zero_between_equals_even_with_no_easy_row(num: int) -> None:
    s = T[:num].detach().requires_grad_()
    found = AdaptiveTeaching().losses(Outputs(s), Outputs(T[:num]), batch(Y[:num]))
    assert number(sum(found.values())) == 0
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert float(s.grad.abs().max()) < 1e-12  # type: ignore[union-attr]


def scalar_outputs(name: str, num: int = 6) -> Outputs:
    return Outputs(logits(num, 1, name, 0.3), logits(num, 4, name + " pooled"))


def test_atkd_of_scalars_matches_distances_and_of_hard_rows_the_label() -> None:
    s, t, y = scalar_outputs("s"), scalar_outputs("t"), logits(6, 1, "y", 0.3).detach()[:, 0]

    def distances(pooled: Tensor) -> np.ndarray:
        f = pooled.detach().numpy()
        d = np.linalg.norm(f[:, None] - f[None], axis=2)
        return np.asarray(d / d[d > 0].mean())

    assert s.pooled is not None and t.pooled is not None
    gap = np.abs(distances(s.pooled) - distances(t.pooled))
    structure = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean(axis=1)
    unsure = np.abs(t.pred.detach().numpy()[:, 0] - y.numpy())
    hard = unsure >= np.median(unsure)
    miss = np.abs((s.pred - t.pred).detach().numpy()[:, 0])
    found = AdaptiveTeaching().losses(s, t, batch(y))
    assert number(found["easy"]) == pytest.approx(0.2 * structure[~hard].mean(), rel=1e-9)
    assert number(found["hard"]) == pytest.approx(0.8 * (structure + miss)[hard].mean(), rel=1e-9)


def test_atkd_of_scalars_is_finite_with_equal_features_and_goes_round_the_circle() -> None:
    s = Outputs(torch.tensor([[0.95], [0.95]], requires_grad=True), torch.ones(2, 3, requires_grad=True))
    t = Outputs(torch.tensor([[0.05], [0.95]]), torch.ones(2, 3))
    circle = build(AdaptiveTeaching(), num_classes=0, period=1.0)
    found = circle.losses(s, t, batch(torch.tensor([0.5, 0.95])))
    assert number(found["hard"]) == pytest.approx(0.8 * 0.1, rel=1e-5)
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert torch.isfinite(s.pred.grad).all() and torch.isfinite(s.pooled.grad).all()  # type: ignore[union-attr]


def test_bad_options_and_scalars_are_named() -> None:
    with pytest.raises(ValueError, match="dkd.warmup_epochs must be 0 or above"):
        DecoupledKD(warmup_epochs=-1)
    with pytest.raises(ValueError, match="atkd.hard_quantile must be between 0 and 1, but is 2.0"):
        AdaptiveTeaching(hard_quantile=2.0)
    with pytest.raises(TaskNotSupported, match="dkd compares class logits"):
        build(DecoupledKD(), num_classes=0)
