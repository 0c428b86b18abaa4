"""kd against torchdistill and the tasks' own soft loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchdistill.losses.mid_level import KDLoss, LogitStdKDLoss

from cgankd.distill.losses.kd import KD
from cgankd.labels.task import ClassTask, ScalarTask
from cgankd.types import DatasetInfo, Outputs
from tests.bank.toys import VICINITY
from tests.distill.logit_toys import TORCHDISTILL, batch, build, io_dict, kl, labels, log_p, logits, total

S, T, Y = logits(name="student"), logits(name="teacher"), labels()


@pytest.mark.parametrize(
    ("options", "reference"),
    [({}, KDLoss), ({"standardize": True, "soft_weight": 9.0, "task_weight": 0.1}, LogitStdKDLoss)],
)
def test_kd_is_the_one_of_torchdistill(options: dict[str, float], reference: type) -> None:
    method = KD(temperature=2.5, **options)  # type: ignore[arg-type]
    other = reference(**TORCHDISTILL, temperature=2.5, alpha=method.task_weight, beta=method.soft_weight)
    ours = method.task_weight * float(F.cross_entropy(S.detach(), Y)) + total(method, S, T, batch(Y))
    assert ours == pytest.approx(float(other(io_dict(S.detach()), io_dict(T.detach()), Y)), rel=1e-7)


def test_kd_equals_the_soft_loss_of_both_tasks_to_the_last_bit() -> None:
    info = DatasetInfo("class", "toy", "", 1, 16, (0.5,), (0.25,), class_names=tuple("abcde"))
    scalar = ScalarTask(info, VICINITY, 0.1, 4)
    for s, t, task in ((S.float(), T.float(), ClassTask(info)), (S[:, :1].float(), T[:, :1].float(), scalar)):
        grads = []
        for loss in (
            lambda x, t=t: KD().losses(Outputs(x), Outputs(t), batch(Y))["soft"],
            lambda x, t=t, task=task: 0.9 * task.soft_loss(x, t, temperature=4.0),
        ):
            x = s.detach().requires_grad_()
            value = loss(x)
            value.backward()
            grads.append((value.detach(), x.grad))
        assert torch.equal(grads[0][0], grads[1][0])
        assert torch.equal(grads[0][1], grads[1][1])


def test_kd_standardized_ignores_scale_and_offset_of_the_logits() -> None:
    method = KD(standardize=True)
    assert total(method, 7 * S + 3, T, batch(Y)) == pytest.approx(total(method, S, T, batch(Y)), rel=1e-6)
    assert total(method, 2 * T - 1, T, batch(Y)) == pytest.approx(0, abs=1e-12)


def test_kd_weighs_fakes() -> None:
    fake = [False, True, False, True, True, False, False, True]
    rows = 16 * kl(log_p(T, 4), log_p(S, 4))
    want = 0.9 * np.average(rows, weights=np.where(fake, 0.25, 1.0))
    assert total(KD(fake_weight=0.25), S, T, batch(Y, fake)) == pytest.approx(want, rel=1e-9)
    assert total(KD(fake_weight=0.0), S, T, batch(Y, [True] * 8)) == 0


def test_kd_of_angles_goes_the_short_way_round() -> None:
    s, t = torch.tensor([[0.95], [0.5]]), torch.tensor([[0.05], [0.4]])
    y = torch.zeros(2)
    assert total(KD(soft_weight=0.5), s, t, batch(y)) == pytest.approx(0.25 * (0.9 + 0.1))
    circle = build(KD(soft_weight=0.5), num_classes=0, period=1.0)
    assert total(circle, s, t, batch(y)) == pytest.approx(0.25 * (0.1 + 0.1), rel=1e-5)


def test_kd_leaves_the_rest_to_the_task() -> None:
    assert KD().task_weight == pytest.approx(0.1)
    assert KD(soft_weight=0.3).task_weight == pytest.approx(0.7)
    assert KD(soft_weight=0.3, task_weight=1.0).task_weight == 1.0
    with pytest.raises(ValueError, match=r"kd.task_weight must be set, because soft_weight 9.0 is above 1"):
        KD(soft_weight=9.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "kd.temperature must be above 0, but is 0.0"),
        ({"fake_weight": -1.0}, "kd.fake_weight must be 0 or above, but is -1.0"),
        ({"task_weight": -1.0}, "kd.task_weight must be 0 or above, but is -1.0"),
    ],
)
def test_bad_options_are_named(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KD(**options)  # type: ignore[arg-type]


def test_the_first_versions_reduction_is_that_of_a_mean_over_batch_and_classes() -> None:
    first = KD(temperature=5.0, soft_weight=0.5, reduction="batch_and_classes")
    log_s, p_t = F.log_softmax(S.detach() / 5, dim=1), F.softmax(T / 5, dim=1)
    want = 0.5 * 25 * F.kl_div(log_s, p_t, reduction="none").mean().detach()
    assert total(first, S, T, batch(Y)) == pytest.approx(float(want), rel=1e-9) and first.task_weight == 0.5
    one = KD(reduction="batch_and_classes")
    assert total(one, S[:, :1], T[:, :1], batch(Y)) == total(KD(), S[:, :1], T[:, :1], batch(Y))
    with pytest.raises(ValueError, match=r"kd\.reduction must be one of batch, batch_and_classes, but is 'mean'"):
        KD(reduction="mean")  # type: ignore[arg-type]


@pytest.mark.parametrize("scalar", [False, True])
def test_rows_weigh_as_they_are_told(scalar: bool) -> None:
    """The plain mean over the batch of each row's term times its weight; a weight of 1 changes no bit."""
    w = torch.linspace(0.2, 1.8, len(S), dtype=torch.float64)
    s, t = (S[:, :1], T[:, :1]) if scalar else (S, T)
    method = KD(temperature=2.0, soft_weight=0.7)
    got = total(method, s, t, replace(batch(Y), soft_weight=w))
    rows = (s - t).abs()[:, 0].detach().numpy() if scalar else 4 * kl(log_p(t, 2.0), log_p(s, 2.0))
    assert got == pytest.approx(0.7 * float((w.numpy() * rows).mean()), rel=1e-9)
    even = replace(batch(Y), soft_weight=torch.ones(len(S), dtype=torch.float64))
    assert total(method, s, t, even) == total(method, s, t, batch(Y)) and KD.weighs_rows
