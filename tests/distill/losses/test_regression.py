"""The scalar losses against numpy, mode by mode; circles, fakes, trust; SOAP-KD's guidance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cgankd.distill.losses.regression import RegressionKD, SoapGuidance
from cgankd.distill.losses.relations import RelationalKD
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw

S, T, Y = (draw(9, 1, seed=k).mul(0.2).add(0.5)[:, 0] for k in range(3))


def response(y: torch.Tensor = Y, s: torch.Tensor = S, t: torch.Tensor = T, **options: object) -> float:
    method = RegressionKD(**options)  # type: ignore[arg-type]
    b = replace(toys.batch(len(y), classes=0), y=y, is_fake=torch.arange(len(y)) % 2 == 1)
    return float(method.losses(toys.only(pred=s[:, None]), toys.only(pred=t[:, None]), b)["response"])


@pytest.mark.parametrize("distance", ["l1", "l2", "smooth_l1"])
def test_soft(distance: str) -> None:
    expected = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[distance](S, T)
    assert response(distance=distance, soft_weight=0.3) == pytest.approx(0.3 * float(expected), rel=1e-5)
    assert RegressionKD(soft_weight=0.3).task_weight == pytest.approx(0.7)


def test_bounded() -> None:
    own, bound = ((S - Y) ** 2).numpy(), ((T - Y) ** 2).numpy()
    for margin in (0.0, 0.05):
        expected = 0.5 * np.where(own + margin > bound, own, 0).mean()
        assert response(mode="bounded", bound_margin=margin) == pytest.approx(expected, rel=1e-5)
    assert response(mode="bounded", s=Y.clone()) == 0 and RegressionKD(mode="bounded").task_weight == 1
    # Labels replaced by the teacher's answers: the bound is zero and the loss is the plain squared error.
    assert response(mode="bounded", y=T) == pytest.approx(0.5 * float(F.mse_loss(S, T)), rel=1e-5)


def test_attentive() -> None:
    miss = ((T - Y) ** 2).numpy()
    gap = (S - T).abs().numpy()
    assert response(mode="attentive") == pytest.approx(0.5 * ((1 - miss / miss.max()) * gap).mean(), rel=1e-4)
    fixed = response(mode="attentive", attentive_scale=1.0)
    assert fixed == pytest.approx(0.5 * ((1 - miss) * gap).mean(), rel=1e-4)
    assert response(mode="attentive", y=T) == pytest.approx(0.5 * gap.mean(), rel=1e-5)


def test_the_largest_miss_is_remembered_in_training_and_saved() -> None:
    method = RegressionKD(mode="attentive")
    b = replace(toys.batch(9, classes=0), y=Y)
    method.losses(toys.only(pred=S[:, None]), toys.only(pred=T[:, None]), b)
    largest = float(((T - Y) ** 2).max())
    assert float(method.state_dict()["largest"]) == pytest.approx(largest)
    method.losses(toys.only(pred=S[:, None]), toys.only(pred=Y[:, None]), b)
    assert float(method.largest) == pytest.approx(largest)


def test_outliers_take_the_teachers_answer() -> None:
    y = T + torch.tensor([0.01, -0.01, 0.02, 0.0, -0.02, 0.01, 0.0, -0.01, 0.6])
    residual = (y - T).numpy()
    real = residual[::2]
    off = abs(residual - np.median(real))
    rejected = off > 3 * np.median(abs(real - np.median(real)))
    assert rejected.tolist() == [False] * 8 + [True]
    expected = abs(S.numpy() - np.where(rejected, T.numpy(), y.numpy())).mean()
    assert response(mode="outlier_reject", y=y) == pytest.approx(expected, rel=1e-5)
    assert RegressionKD(mode="outlier_reject").task_weight == 0


def test_replaced_labels_of_fakes_do_not_make_outliers_of_the_reals() -> None:
    y = torch.where(torch.arange(9) % 2 == 1, T, T + 0.01 * torch.arange(9.0))
    expected = float((S - y).abs().mean())
    assert response(mode="outlier_reject", y=y) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("num", [1, 2])
def test_one_or_two_samples_are_no_outliers(num: int) -> None:
    own = float((S[:num] - Y[:num]).abs().mean())
    assert response(mode="outlier_reject", y=Y[:num], s=S[:num], t=T[:num]) == pytest.approx(own, rel=1e-5)


def test_fakes_weigh_what_they_are_told() -> None:
    gap = (S - T).abs().numpy()
    real = np.arange(9) % 2 == 0
    assert response(fake_weight=0.0) == pytest.approx(0.5 * gap[real].mean(), rel=1e-5)
    weight = np.where(real, 1, 0.25)
    assert response(fake_weight=0.25) == pytest.approx(0.5 * (weight * gap).sum() / weight.sum(), rel=1e-5)


@pytest.mark.parametrize("mode", ["soft", "bounded", "attentive", "outlier_reject"])
def test_angles_go_the_short_way_round(mode: str) -> None:
    values = []
    for turn in (0.0, 0.5):
        method = RegressionKD(mode=mode)  # type: ignore[arg-type]
        method.build(toys.spec(toys.net(num_outputs=1)), toys.spec(toys.net(num_outputs=1)), toys.data(0, period=1.0))
        s, t, y = ((x + turn) % 1.0 for x in (S, T, Y))
        b = replace(toys.batch(9, classes=0), y=y)
        values.append(float(method.losses(toys.only(pred=s[:, None]), toys.only(pred=t[:, None]), b)["response"]))
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_soap_guidance_by_hand() -> None:
    torch.manual_seed(0)
    student, teacher = toys.net(num_outputs=1), toys.net("plain-vgg", 8, 1)
    soap = toys.built(SoapGuidance(relation_weight=2.0), student, teacher, toys.data(0)).eval()
    assert isinstance(soap, SoapGuidance)
    b = toys.batch(classes=0)
    s, t = toys.shown(student.eval(), b), toys.frozen(teacher, b)
    terms = soap.losses(s, t, b)
    guess = soap.regressor(s.stages[-1]).detach()
    assert float(terms["feature"].detach()) == pytest.approx(
        100 * float(((guess - t.stages[-1]).numpy() ** 2).mean()), rel=1e-5
    )
    flat = (toys.only(pooled=x.flatten(1)) for x in (guess, t.stages[-1]))
    relation = 2 * float(toys.total(RelationalKD().losses(*flat, b)))
    assert float(terms["relation"].detach()) == pytest.approx(relation, rel=1e-5)
    assert set(toys.built(SoapGuidance(), student, teacher, toys.data(0)).losses(s, t, b)) == {"feature"}
