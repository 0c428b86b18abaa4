"""nkd, wttm and ctkd against numpy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from cgankd.distill.base import Distiller, TaskNotSupported
from cgankd.distill.losses.kd import KD
from cgankd.distill.losses.logit import METHODS, CurriculumKD, NormalizedKD, TransformedTeacher
from cgankd.types import Outputs
from tests.distill.logit_toys import batch, build, kl, labels, log_p, logits, terms, total

S, T, Y = logits(name="student"), logits(name="teacher"), labels()


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
    assert total(curriculum(), S, T, batch(Y)) == pytest.approx(total(KD(temperature=first), S, T, batch(Y)), rel=1e-6)


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
        (NormalizedKD, {"non_target_weight": -1.0}, "nkd.non_target_weight must be 0 or above"),
        (TransformedTeacher, {"exponent": float("nan")}, "wttm.exponent must be above 0, but is nan"),
        (CurriculumKD, {"temperature_range": 0.0}, "ctkd.temperature_range must be above 0"),
    ],
)
def test_bad_options_are_named(method: type[Distiller], options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        method(**options)
