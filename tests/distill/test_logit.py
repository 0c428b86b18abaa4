"""kd, nkd, wttm and ctkd against torchdistill, numpy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchdistill.losses.mid_level import KDLoss, LogitStdKDLoss

from cgankd.distill.base import Distiller, TaskNotSupported
from cgankd.distill.logit import METHODS, CurriculumKD, Hinton, NormalizedKD, TransformedTeacher
from cgankd.task import ClassTask, ScalarTask
from cgankd.types import DatasetInfo, Outputs
from tests.bank.toys import VICINITY
from tests.distill.logit_toys import TORCHDISTILL, batch, build, io_dict, kl, labels, log_p, logits, terms, total

S, T, Y = logits(name="student"), logits(name="teacher"), labels()


@pytest.mark.parametrize(
    ("options", "reference"),
    [({}, KDLoss), ({"standardize": True, "soft_weight": 9.0, "task_weight": 0.1}, LogitStdKDLoss)],
)
def test_kd_is_the_one_of_torchdistill(options: dict[str, float], reference: type) -> None:
    method = Hinton(temperature=2.5, **options)  # type: ignore[arg-type]
    other = reference(**TORCHDISTILL, temperature=2.5, alpha=method.task_weight, beta=method.soft_weight)
    ours = method.task_weight * float(F.cross_entropy(S.detach(), Y)) + total(method, S, T, batch(Y))
    assert ours == pytest.approx(float(other(io_dict(S.detach()), io_dict(T.detach()), Y)), rel=1e-7)


def test_kd_equals_the_soft_loss_of_both_tasks_to_the_last_bit() -> None:
    info = DatasetInfo("class", "toy", "", 1, 16, (0.5,), (0.25,), class_names=tuple("abcde"))
    scalar = ScalarTask(info, VICINITY, 0.1, 4)
    for s, t, task in ((S.float(), T.float(), ClassTask(info)), (S[:, :1].float(), T[:, :1].float(), scalar)):
        grads = []
        for loss in (
            lambda x, t=t: Hinton().losses(Outputs(x), Outputs(t), batch(Y))["soft"],
            lambda x, t=t, task=task: 0.9 * task.soft_loss(x, t, temperature=4.0),
        ):
            x = s.detach().requires_grad_()
            value = loss(x)
            value.backward()
            grads.append((value.detach(), x.grad))
        assert torch.equal(grads[0][0], grads[1][0])
        assert torch.equal(grads[0][1], grads[1][1])


def test_kd_standardized_ignores_scale_and_offset_of_the_logits() -> None:
    method = Hinton(standardize=True)
    assert total(method, 7 * S + 3, T, batch(Y)) == pytest.approx(total(method, S, T, batch(Y)), rel=1e-6)
    assert total(method, 2 * T - 1, T, batch(Y)) == pytest.approx(0, abs=1e-12)


def test_kd_weighs_fakes() -> None:
    fake = [False, True, False, True, True, False, False, True]
    rows = 16 * kl(log_p(T, 4), log_p(S, 4))
    want = 0.9 * np.average(rows, weights=np.where(fake, 0.25, 1.0))
    assert total(Hinton(fake_weight=0.25), S, T, batch(Y, fake)) == pytest.approx(want, rel=1e-9)
    assert total(Hinton(fake_weight=0.0), S, T, batch(Y, [True] * 8)) == 0


def test_kd_of_angles_goes_the_short_way_round() -> None:
    s, t = torch.tensor([[0.95], [0.5]]), torch.tensor([[0.05], [0.4]])
    y = torch.zeros(2)
    assert total(Hinton(soft_weight=0.5), s, t, batch(y)) == pytest.approx(0.25 * (0.9 + 0.1))
    circle = build(Hinton(soft_weight=0.5), num_classes=0, period=1.0)
    assert total(circle, s, t, batch(y)) == pytest.approx(0.25 * (0.1 + 0.1), rel=1e-5)


def test_kd_leaves_the_rest_to_the_task() -> None:
    assert Hinton().task_weight == pytest.approx(0.1)
    assert Hinton(soft_weight=0.3).task_weight == pytest.approx(0.7)
    assert Hinton(soft_weight=0.3, task_weight=1.0).task_weight == 1.0
    with pytest.raises(ValueError, match=r"kd.task_weight must be set, because soft_weight 9.0 is above 1"):
        Hinton(soft_weight=9.0)


def test_nkd_is_its_formula() -> None:
    sharp_s, sharp_t, rows = log_p(S), log_p(T), np.arange(8)
    y = Y.numpy()
    want_target = -(np.exp(sharp_t[rows, y]) * sharp_s[rows, y]).mean()
    others = 0.0
    for n in rows:
        keep = [k for k in range(5) if k != y[n]]
        s, t = log_p(S[n, keep], 3), log_p(T[n, keep], 3)
        others -= (np.exp(t) * s).sum() / 8
    found = terms(NormalizedKD(), S, T, batch(Y))
    assert found["target"] == pytest.approx(want_target, rel=1e-9)
    assert found["non_target"] == pytest.approx(3.5 * 9 * others, rel=1e-9)


def test_nkd_is_least_at_the_teacher() -> None:
    at_teacher = total(NormalizedKD(target_weight=0.0), T, T, batch(Y))
    assert at_teacher > 0
    assert total(NormalizedKD(target_weight=0.0), T + 0.1 * S, T, batch(Y)) > at_teacher


@pytest.mark.parametrize("weighted", [True, False])
def test_wttm_is_the_power_of_the_probabilities(weighted: bool) -> None:
    power = np.exp(log_p(T)) ** 0.3
    scale = power.sum(axis=1)
    np.testing.assert_allclose(power / scale[:, None], np.exp(log_p(0.3 * T.detach().numpy())), rtol=1e-12)
    rows = kl(np.log(power / scale[:, None]), log_p(S)) * (scale if weighted else 1)
    method = TransformedTeacher(exponent=0.3, loss_weight=2.0, weighted=weighted)
    assert total(method, S, T, batch(Y)) == pytest.approx(2 * rows.mean(), rel=1e-9)


def curriculum(**options: float) -> CurriculumKD:
    method = CurriculumKD(**options)
    build(method)
    return method


def test_ctkd_starts_as_kd_at_its_first_temperature() -> None:
    first = 1 + 20 / (1 + np.exp(-1.0))
    assert first == pytest.approx(15.62, abs=0.01)
    assert total(curriculum(), S, T, batch(Y)) == pytest.approx(
        total(Hinton(temperature=first), S, T, batch(Y)), rel=1e-6
    )


@pytest.mark.parametrize(("epoch", "factor"), [(0, 0.0), (5, -0.5), (10, -1.0), (99, -1.0)])
def test_ctkd_reverses_the_gradient_of_the_temperature(epoch: float, factor: float) -> None:
    method = curriculum()
    method.losses(Outputs(S.detach()), Outputs(T), batch(Y), epoch)["soft"].backward()

    def at(theta: float) -> float:
        temperature = 1 + 20 / (1 + np.exp(-theta))
        return float(0.9 * temperature**2 * kl(log_p(T, temperature), log_p(S, temperature)).mean())

    slope = (at(1 + 1e-4) - at(1 - 1e-4)) / 2e-4
    assert method.raw_temperature.grad is not None
    assert float(method.raw_temperature.grad) == pytest.approx(factor * slope, rel=1e-4, abs=1e-9)


def test_ctkd_owns_one_number_without_decay() -> None:
    method = curriculum()
    assert [name for name, _ in method.named_parameters()] == ["raw_temperature"]
    assert method.no_decay() == {"raw_temperature"}
    assert set(method.state_dict()) == {"raw_temperature"}


@pytest.mark.parametrize("method", [m for m in METHODS.values() if not m.scalar])
def test_scalars_are_refused(method: type[Distiller]) -> None:
    with pytest.raises(TaskNotSupported, match=method.name):
        build(method(), num_classes=0)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (Hinton, {"temperature": 0.0}, "kd.temperature must be above 0, but is 0.0"),
        (Hinton, {"fake_weight": -1.0}, "kd.fake_weight must be 0 or above, but is -1.0"),
        (NormalizedKD, {"non_target_weight": -1.0}, "nkd.non_target_weight must be 0 or above"),
        (TransformedTeacher, {"exponent": float("nan")}, "wttm.exponent must be above 0, but is nan"),
        (CurriculumKD, {"temperature_range": 0.0}, "ctkd.temperature_range must be above 0"),
    ],
)
def test_bad_options_are_named(method: type[Distiller], options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        method(**options)
