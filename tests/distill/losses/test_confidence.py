"""cckd_confidence against plain numpy; form L is form T at temperature 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cgankd.distill.losses.confidence import ConfidenceConditioned
from cgankd.types import Outputs
from tests.distill.logit_toys import batch, build, labels, log_p, logits, total

S, T, Y = logits(name="student"), logits(name="teacher"), labels()
ROWS = np.arange(8)


def rows(form: str, temperature: float) -> np.ndarray:
    """The loss of each row, written out."""
    y = Y.numpy()
    trust = np.exp(log_p(T))[ROWS, y]
    soft_t, log_s = np.exp(log_p(T, temperature)), log_p(S, temperature)
    if form == "L":
        return np.asarray(-trust * (soft_t * log_s).sum(axis=1) - (1 - trust) * log_p(S)[ROWS, y])
    target = trust[:, None] * soft_t + (1 - trust[:, None]) * np.eye(5)[y]
    return np.asarray(-(target * log_s).sum(axis=1))


@pytest.mark.parametrize("form", ["L", "T"])
def test_both_forms_are_their_formulas(form: str) -> None:
    method = ConfidenceConditioned(form=form)  # type: ignore[arg-type]
    assert total(method, S, T, batch(Y)) == pytest.approx(rows(form, 4.0).mean(), rel=1e-9)
    assert method.task_weight == 0


def test_the_forms_are_one_at_temperature_1_only() -> None:
    def pair(temperature: float) -> list[float]:
        methods = [ConfidenceConditioned(form=f, temperature=temperature) for f in ("L", "T")]  # type: ignore[arg-type]
        return [total(method, S, T, batch(Y)) for method in methods]

    assert pair(1.0)[0] == pytest.approx(pair(1.0)[1], rel=1e-12)
    assert pair(4.0)[0] != pytest.approx(pair(4.0)[1], rel=0.01)


@pytest.mark.parametrize("epoch", [0, 30, 1e6])
def test_regulated_rows_are_mistakes_and_narrow_gaps(epoch: float) -> None:
    p = np.exp(log_p(S, 4.0))
    two = np.sort(p, axis=1)[:, -2:]
    keep = (p.argmax(axis=1) != Y.numpy()) | (two[:, 1] - two[:, 0] < 1 - math.exp(-0.01 * epoch))
    assert keep.sum() > 0
    method = ConfidenceConditioned(self_regulated=True)
    assert total(method, S, T, batch(Y), epoch) == pytest.approx(rows("L", 4.0)[keep].mean(), rel=1e-9)


def test_a_batch_with_nothing_to_learn_gives_an_attached_zero() -> None:
    s = (9 * torch.eye(4)).requires_grad_()
    method = ConfidenceConditioned(self_regulated=True)
    loss = method.losses(Outputs(s), Outputs(s.detach()), batch(torch.arange(4)), 0)["confidence"]
    loss.backward()
    assert loss.detach() == 0 and torch.equal(s.grad, torch.zeros(4, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["L", "T"])
@pytest.mark.parametrize("spread", [None, 0.2])
def test_scalars_trust_the_teacher_by_its_error(form: str, spread: float | None) -> None:
    s, t, y = (logits(6, 1, n, 0.3).detach()[:, 0] for n in "sty")
    error = (t - y).abs().numpy()
    trust = np.exp(-error / (error.mean() if spread is None else spread))
    target = trust * t.numpy() + (1 - trust) * y.numpy()
    to_teacher, to_label = (s - t).abs().numpy(), (s - y).abs().numpy()
    want = trust * to_teacher + (1 - trust) * to_label if form == "L" else np.abs(s.numpy() - target)
    method = ConfidenceConditioned(form=form, scalar_spread=spread)  # type: ignore[arg-type]
    assert total(method, s[:, None], t[:, None], batch(y)) == pytest.approx(want.mean(), rel=1e-9)


def test_regulated_scalars_are_those_far_from_their_label() -> None:
    s, y = torch.tensor([[0.0], [0.05], [0.3], [0.6]]), torch.zeros(4)
    method = ConfidenceConditioned(self_regulated=True, scalar_spread=0.2)
    assert total(method, s, y[:, None], batch(y)) == pytest.approx(0.45)
    late = math.log(8) / 0.01  # The bound is 0.2 / 8 by then.
    assert total(method, s, y[:, None], batch(y), late) == pytest.approx((0.05 + 0.3 + 0.6) / 3)


def test_mixed_targets_of_angles_lie_on_the_short_arc() -> None:
    circle = build(ConfidenceConditioned(form="T", scalar_spread=0.1 / math.log(2)), num_classes=0, period=1.0)
    # The teacher is 0.1 of a turn off, so it is trusted by a half: the target is 1.0, which is 0.0.
    assert total(circle, torch.tensor([[0.0]]), torch.tensor([[0.05]]), batch(torch.tensor([0.95]))) == pytest.approx(
        0, abs=1e-6
    )


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="cckd_confidence.form must be one of L, T, but is 'M'"):
        ConfidenceConditioned(form="M")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cckd_confidence.scalar_spread must be above 0, but is 0.0"):
        ConfidenceConditioned(scalar_spread=0.0)
