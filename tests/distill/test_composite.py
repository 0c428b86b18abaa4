"""Sums of KD losses, weights of fakes, and what the base gives to every method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from cgankd.distill import Batch, Outputs, make_distiller
from cgankd.distill.base import Distiller, Needs
from cgankd.distill.composite import CompositeDistiller, joined_needs
from cgankd.distill.losses.logit_terms import row_mean
from cgankd.distill.rows import hard_labels, join
from cgankd.rng import generator

LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def logits(name: str) -> torch.Tensor:
    return torch.randn(6, 4, generator=generator(name))


def kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> np.ndarray:
    ps, pt = (log_softmax(v.double().numpy() / temperature, axis=1) for v in (student, teacher))
    found: np.ndarray = temperature**2 * (np.exp(pt) * (pt - ps)).sum(1)
    return found


def test_soft_term_is_the_weighted_divergence() -> None:
    distiller = make_distiller("kd", temperature=3.0, soft_weight=0.7)
    found = distiller.losses(Outputs(logits("s")), Outputs(logits("t")), Batch({}, LABELS))
    assert found["soft"].item() == pytest.approx(0.7 * kl(logits("s"), logits("t"), 3.0).mean(), rel=1e-5)
    assert distiller.task_weight == pytest.approx(0.3)


def test_fakes_weigh_apart() -> None:
    is_fake = torch.tensor([False, True, True, False, False, True])
    distiller = make_distiller("kd", temperature=2.0, soft_weight=1.0, fake_weight=0.5)
    found = distiller.losses(Outputs(logits("s")), Outputs(logits("t")), Batch({}, LABELS, is_fake=is_fake))
    expected = np.average(kl(logits("s"), logits("t"), 2.0), weights=np.where(is_fake, 0.5, 1.0))
    assert found["soft"].item() == pytest.approx(expected, rel=1e-5)


def test_a_mean_of_nothing_is_zero_with_gradients_of_zero() -> None:
    loss = torch.ones(3, requires_grad=True)
    mean = row_mean(loss, torch.ones(3, dtype=torch.bool), 0.0)
    assert mean.item() == 0
    (1e6 * mean).backward()
    assert loss.grad is not None and loss.grad.tolist() == [0, 0, 0]
    assert row_mean(loss, None, 0.0).item() == 1


def test_hard_labels_are_the_tasks_losses() -> None:
    expected = -log_softmax(logits("s").double().numpy(), axis=1)[np.arange(6), LABELS.numpy()]
    np.testing.assert_allclose(hard_labels(logits("s"), LABELS), expected, rtol=1e-5)
    np.testing.assert_allclose(hard_labels(torch.tensor([[0.9]]), torch.tensor([0.1]), 1.0), [0.2], rtol=1e-5)


def test_joined_rows_are_in_the_order_of_the_batch() -> None:
    whole = Outputs(logits("a"), logits("b"), (logits("c").view(6, 4, 1, 1),), (logits("d").view(6, 4, 1, 1),))
    rows = [torch.tensor([4, 0, 2]), torch.tensor([1, 3, 5])]
    assert whole.pooled is not None
    parts = [Outputs(whole.pred[r], whole.pooled[r], (whole.stages[0][r],), (whole.preacts[0][r],)) for r in rows]
    again = join(parts, rows)
    for left, right in zip(
        (again.pred, *again.stages, *again.preacts), (whole.pred, *whole.stages, *whole.preacts), strict=True
    ):
        assert torch.equal(left, right)
    assert again.pooled is not None and torch.equal(again.pooled, whole.pooled)


def test_a_composite_adds_its_parts() -> None:
    parts = [(2.0, make_distiller("kd", soft_weight=0.5)), (0.5, make_distiller("kd", temperature=1.0))]
    both = CompositeDistiller(parts)
    student, teacher, batch = Outputs(logits("s")), Outputs(logits("t")), Batch({}, LABELS)
    found = both.losses(student, teacher, batch)
    for (weight, part), value in zip(parts, found.values(), strict=True):
        assert value.item() == pytest.approx(weight * part.losses(student, teacher, batch)["soft"].item())
    assert both.task_weight == pytest.approx(0.1) and both.needs.teacher_pred_only


def test_needs_add_up() -> None:
    class Pooled(Distiller):
        needs = Needs(pooled=True, logits=True)

    joined = joined_needs([Pooled(), make_distiller("kd")])
    assert joined.pooled and joined.logits and not joined.teacher_pred_only and joined.views == {"plain"}


def test_a_composite_refuses_what_cannot_go_together() -> None:
    class Turned(Distiller):
        name, needs = "turned", Needs(views=frozenset({"rot4"}))

    with pytest.raises(ValueError, match=r"different views .* kd \(plain\), turned \(rot4\)"):
        CompositeDistiller([(1.0, make_distiller("kd")), (1.0, Turned())])
    with pytest.raises(ValueError, match="at least one"):
        CompositeDistiller([])
