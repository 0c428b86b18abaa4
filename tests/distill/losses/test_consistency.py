"""UDA by hand in both forms, for classes, scalars and angles; who counts as unlabelled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cgankd.distill.base import Batch
from cgankd.distill.losses.consistency import DataAugmentation
from cgankd.types import Outputs
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw

FAKE = torch.tensor([0, 1, 0, 1, 1]).bool()


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    out: np.ndarray = e / e.sum(1, keepdims=True)
    return out


def kl(t: np.ndarray, s: np.ndarray) -> np.ndarray:
    out: np.ndarray = (t * (np.log(t) - np.log(s))).sum(1)
    return out


def batch(classes: int = 3) -> Batch:
    return replace(toys.batch(5, classes=classes), is_fake=FAKE)


def taken(method: DataAugmentation, s: Tensor, t: Tensor, b: Batch) -> dict[str, float]:
    return {name: float(v.detach()) for name, v in method.losses(Outputs(s), Outputs(t), b).items()}


@pytest.mark.parametrize("weight", [0.5, 0.8])
def test_the_first_versions_form_by_hand(weight: float) -> None:
    s, t, b = draw(10, 3), draw(10, 3, seed=1), batch()
    method = DataAugmentation(soft_weight=weight)
    found = taken(method, s, t, b)
    y = b.y.numpy()
    soft = [25 * kl(softmax(t.numpy()[r] / 5), softmax(s.numpy()[r] / 5)).mean() for r in (slice(0, 5), slice(5, 10))]
    labels = -np.log(softmax(s.numpy()[5:])[np.arange(5), y]).mean()
    expected = [weight * soft[0] / 2, weight * soft[1] / 2, (1 - weight) * labels / 2]
    assert list(found.values()) == pytest.approx(expected, rel=1e-4)
    # The task's own loss is that of the plain view, with the other half of 1 - w.
    assert method.task_weight == pytest.approx((1 - weight) / 2)


def test_the_consistency_form_by_hand() -> None:
    s, t, b = 2 * draw(10, 3), draw(10, 3, seed=1), batch()
    found = taken(DataAugmentation(form="self", confidence=0.6, consistency_weight=3.0), s, t, b)
    plain, strong = s.numpy()[:5], softmax(s.numpy()[5:])
    sure = softmax(plain).max(1) > 0.6
    assert 0 < sure[FAKE.numpy()].sum() < 3
    row = kl(softmax(plain / 0.4), strong) * sure
    assert found["consistency"] == pytest.approx(3.0 * row[FAKE.numpy()].mean(), rel=1e-4)
    soft = 25 * kl(softmax(t.numpy()[:5] / 5), softmax(plain / 5)).mean()
    assert found["soft"] == pytest.approx(0.5 * soft, rel=1e-4)
    every = taken(DataAugmentation(form="self", confidence=0.6, unlabelled="all"), s, t, b)
    assert every["consistency"] == pytest.approx(row.mean(), rel=1e-4)


def test_the_students_plain_answer_is_held_fixed() -> None:
    s = draw(10, 3).requires_grad_()
    method = DataAugmentation(form="self", soft_weight=0.0, confidence=0.0, unlabelled="all")
    method.losses(Outputs(s), Outputs(draw(10, 3, seed=1)), batch())["consistency"].backward()  # type: ignore[no-untyped-call]
    assert s.grad is not None and not s.grad[:5].any() and s.grad[5:].any()


def test_without_fakes_nothing_is_unlabelled() -> None:
    s = draw(10, 3).requires_grad_()
    for is_fake in (None, torch.zeros(5, dtype=torch.bool)):
        b = replace(batch(), is_fake=is_fake)
        loss = DataAugmentation(form="self").losses(Outputs(s), Outputs(draw(10, 3, seed=1)), b)["consistency"]
        loss.backward()  # type: ignore[no-untyped-call]
        assert float(loss.detach()) == 0


@pytest.mark.parametrize(("period", "miss"), [(None, 0.8), (1.0, 0.2)])
@pytest.mark.parametrize("form", ["teacher", "self"])
def test_scalars_by_absolute_difference_the_short_way_round(period: float | None, miss: float, form: Any) -> None:
    method = DataAugmentation(form=form, unlabelled="all")
    method.data_spec = toys.data(0, period=period)
    s, t = torch.cat([torch.full((5, 1), 0.1), torch.full((5, 1), 0.9)]), torch.full((10, 1), 0.1)
    found = taken(method, s, t, replace(batch(0), y=torch.full((5,), 0.1)))
    if form == "self":
        assert found == pytest.approx({"soft": 0.0, "consistency": miss}, rel=1e-5)
    else:
        expected = {"soft": 0.0, "strong_soft": 0.25 * miss, "strong_labels": 0.25 * miss}
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"form": "xie"}, r"uda\.form must be one of teacher, self"),
        ({"unlabelled": "real"}, r"uda\.unlabelled must be one of fakes, all"),
        ({"soft_weight": 1.5}, r"uda\.soft_weight must be between 0 and 1"),
        ({"confidence": -0.1}, r"uda\.confidence must be between 0 and 1"),
        ({"sharpen": 0.0}, r"uda\.sharpen must be above 0"),
        ({"consistency_weight": -1.0}, r"uda\.consistency_weight must be 0 or above"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataAugmentation(**options)
