"""What all losses on predictions share: finite at extremes, taught by no one but the teacher's numbers, fair to fakes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cgankd.distill.base import Distiller, describe
from cgankd.distill.losses import (
    comparative,
    confidence,
    correlation,
    decoupled,
    gradient,
    kd,
    logit,
    multilevel,
    regions,
)
from cgankd.distill.losses.logit_terms import pearson, row_mean, split, standardized
from cgankd.types import Outputs
from tests.distill.logit_toys import CLASSES, batch, build, labels, log_p, logits

FAMILIES = (kd, logit, decoupled, correlation, confidence, comparative, multilevel)
METHODS = [method for family in FAMILIES for method in family.METHODS.values()]
OPTIONS = {"kd": {"standardize": True}, "cckd_confidence": {"self_regulated": True}}

LOGITS = {
    "600": (600 * torch.eye(CLASSES)[[0, 1, 2, 3]], 600 * torch.eye(CLASSES)[[1, 1, 0, 4]]),
    "constant": (torch.full((4, CLASSES), 0.3), 3 * torch.eye(CLASSES)[:4]),
    "both constant": (torch.full((4, CLASSES), 0.3), torch.full((4, CLASSES), 600.1)),
    "equal rows": (torch.arange(5.0).repeat(4, 1), torch.arange(5.0).repeat(4, 1)),
    "two rows": (logits(2).detach().float(), logits(2, name="teacher").detach().float()),
}


@pytest.mark.parametrize("case", LOGITS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_class_terms_are_finite_and_teach_the_student_alone(method: type[Distiller], case: str) -> None:
    for options in ({}, OPTIONS.get(method.name, {})):
        distiller = build(method(**options))
        s, t = (z.clone().requires_grad_() for z in LOGITS[case])
        rows = len(s) // 2 if "weak" in method.needs.views else len(s)
        for fake_weight in (1.0, 0.0):
            distiller.fake_weight = fake_weight
            found = distiller.losses(Outputs(s), Outputs(t), batch(labels(rows), [True] * rows), 1)
            assert all(term.shape == () and torch.isfinite(term) for term in found.values()), found
            torch.stack(list(found.values())).sum().backward()
        assert s.grad is not None and torch.isfinite(s.grad).all() and s.grad.abs().max() < 1e6
        assert t.grad is None


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_one_image_is_enough(method: type[Distiller]) -> None:
    rows = 2 if "weak" in method.needs.views else 1
    s = logits(rows).detach().float().requires_grad_()
    found = build(method()).losses(Outputs(s), Outputs(logits(rows, name="teacher")), batch(labels(1)))
    torch.stack([term.float() for term in found.values()]).sum().backward()
    assert torch.isfinite(s.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("num", [1, 2, 7])
@pytest.mark.parametrize("method", [m for m in METHODS if m.scalar], ids=lambda m: m.name)
def test_scalar_terms_are_finite_and_teach_the_student_alone(method: type[Distiller], num: int) -> None:
    for period in (None, 0.5):
        s, t = (z.detach().float().requires_grad_() for z in (logits(num, 1, "s"), logits(num, 1, "t")))
        features = torch.ones(num, 4, requires_grad=True)
        distiller = build(method(), num_classes=0, period=period)
        found = distiller.losses(Outputs(s, features), Outputs(t, torch.ones(num, 4)), batch(torch.rand(num)))
        torch.stack(list(found.values())).sum().backward()
        assert torch.isfinite(s.grad).all() and t.grad is None  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_half_precision_is_widened(method: type[Distiller]) -> None:
    s, t = (logits(8, name=n).detach().bfloat16() for n in ("student", "teacher"))
    rows = 4 if "weak" in method.needs.views else 8
    for term in build(method()).losses(Outputs(s), Outputs(t), batch(labels(rows))).values():
        assert term.dtype == torch.float32


@pytest.mark.parametrize(
    "method", [*METHODS, *gradient.METHODS.values(), *regions.METHODS.values()], ids=lambda m: m.name
)
def test_every_method_says_what_it_compares(method: type[Distiller]) -> None:
    assert describe(method) and method.source and method.options()["fake_weight"] == 1.0
    assert "teacher" in describe(method)[0]["source"]
    assert method.__doc__ and (method.status == "published" or method.status in method.__doc__)


def test_split_is_exact_where_probabilities_underflow() -> None:
    z, y = torch.tensor([[600.0, 0.0, 1.0], [0.0, 600.0, 1.0]]), torch.tensor([0, 0])
    found = split(z, y)
    np.testing.assert_allclose(found.log_target_B, [0, -600])
    np.testing.assert_allclose(found.log_rest_B, [math.log(1 + math.e) - 600, 0], rtol=1e-6)
    drawn, y = logits(), labels()
    p = np.exp(log_p(drawn))[np.arange(8), y.numpy()]
    np.testing.assert_allclose(split(drawn, y).log_rest_B.detach().exp(), 1 - p, rtol=1e-9)


def test_row_mean_divides_by_the_weights_of_the_rows_that_count() -> None:
    term, fake = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([False, True, False, True])
    assert row_mean(term, fake, 0.5) == pytest.approx((1 + 1 + 4 + 4) / 3)
    assert row_mean(term, fake, 0.5, torch.tensor([True, True, False, False])) == pytest.approx(2 / 1.5)
    assert row_mean(term, None, 0.5) == pytest.approx(15 / 4)
    assert row_mean(term[:, None].repeat(1, 3), fake, 1.0) == pytest.approx(45 / 4)
    assert row_mean(term, fake, 1.0, torch.zeros(4, dtype=torch.bool)) == 0


def test_rows_without_spread_are_centred_and_uncorrelated() -> None:
    z = torch.tensor([[0.1] * 7, [600.1] * 7, [1.0, 2, 3, 4, 5, 6, 7]], requires_grad=True)
    found = standardized(z)
    assert found[:2].abs().max() < 1e-3
    np.testing.assert_allclose(found[2].std().detach(), 1, rtol=1e-5)
    correlation_B = pearson(z, torch.arange(7.0).repeat(3, 1))
    np.testing.assert_allclose(correlation_B.detach(), [0, 0, 1], atol=1e-3)
    (found.sum() + correlation_B.sum()).backward()
    assert torch.isfinite(z.grad).all()  # type: ignore[arg-type]
