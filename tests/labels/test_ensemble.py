"""An ensemble's answers, spread and weights against closed forms, scipy and hand-written numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from cgankd.labels.ensemble import (
    EVEN_IMAGES,
    ClassMean,
    ScalarMean,
    best_or_all,
    make_mean,
    onto_simplex,
    spread_weights,
)
from cgankd.types import DatasetInfo

WEIGHTS = torch.tensor([0.2, 0.5, 0.3])


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def logits(*shape: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def info(**more: object) -> DatasetInfo:
    facts = {"kind": "scalar", "source": "x", "label_unit": "deg", "channels": 1, "image_size": 16, "label_max": 360.0}
    return DatasetInfo(**(facts | {"pixel_mean": (0.5,), "pixel_std": (0.5,)} | more))  # type: ignore[arg-type]


def test_classes_average_probabilities() -> None:
    z = logits(3, 40, 7)
    expected = np.einsum("k,kbo->bo", WEIGHTS.double().numpy(), softmax(z.double().numpy()))
    got = ClassMean().combine(z, WEIGHTS)
    assert softmax(got.double().numpy()) == pytest.approx(expected, abs=1e-6)
    assert got.exp().sum(1).numpy() == pytest.approx(np.ones(40), abs=1e-6)  # log-probabilities as they are
    assert torch.isfinite(
        ClassMean().combine(torch.tensor([[[900.0, 0.0]], [[0.0, 900.0]]]), torch.tensor([0.5, 0.5]))
    ).all()


def test_the_spread_of_classes_is_the_jensen_shannon_divergence() -> None:
    z = logits(2, 30, 5)
    p = softmax(z.double().numpy())
    expected = jensenshannon(p[0], p[1], axis=1) ** 2
    got = ClassMean().spread(z, torch.tensor([0.5, 0.5]))
    assert got.numpy() == pytest.approx(expected, abs=1e-6)
    assert ClassMean().spread(z[:1].expand(2, -1, -1), torch.tensor([0.3, 0.7])).numpy() == pytest.approx(0, abs=1e-6)
    sure = torch.tensor(
        [[[80.0, 0.0]], [[0.0, 80.0]]]
    )  # members that contradict each other: the entropy of the weights
    w = np.array([0.3, 0.7])
    assert float(ClassMean().spread(sure, torch.tensor(w).float())[0]) == pytest.approx(
        -(w * np.log(w)).sum(), abs=1e-5
    )


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_the_spread_is_between_zero_and_the_entropy_of_the_weights(seed: int) -> None:
    spread = ClassMean().spread(logits(3, 20, 4, scale=8.0, seed=seed), WEIGHTS)
    assert bool((spread >= 0).all()) and float(spread.max()) <= float(-(WEIGHTS * WEIGHTS.log()).sum()) + 1e-5


def test_weights_of_classes_maximise_the_penalised_likelihood() -> None:
    """scipy finds the same maximum of the same concave function."""
    gen = torch.Generator().manual_seed(1)
    y = torch.randint(0, 5, (60,), generator=gen)
    z = logits(3, 60, 5, seed=2) + torch.tensor([0.0, 2.0, 4.0])[:, None, None] * torch.nn.functional.one_hot(y, 5)
    got = ClassMean().weights(z, y).numpy()
    p = np.take_along_axis(softmax(z.double().numpy()), y.numpy()[None, :, None].repeat(3, 0), 2)[:, :, 0]

    def cost(w: np.ndarray) -> float:
        return -float(np.log(w @ p).sum() + EVEN_IMAGES / 3 * np.log(w).sum())

    ends = {"bounds": [(1e-6, 1)] * 3, "constraints": {"type": "eq", "fun": lambda w: w.sum() - 1}}
    best = minimize(cost, np.full(3, 1 / 3), method="SLSQP", options={"ftol": 1e-14, "maxiter": 500}, **ends)
    assert got.sum() == pytest.approx(1) and got == pytest.approx(best.x, abs=1e-4)
    assert got[2] > got[1] > got[0] > 0


def test_few_images_leave_weights_nearly_equal_and_many_do_not() -> None:
    y = torch.zeros(1000, dtype=torch.int64)
    good, bad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    z = torch.stack([good.expand(1000, 2), bad.expand(1000, 2)])
    few, many = ClassMean().weights(z[:, :3], y[:3]), ClassMean().weights(z, y)
    assert 0.5 < few[0] < 0.6 and many[0] > 0.98
    t = torch.tensor([[0.5], [0.9]])[:, None].expand(2, 1000, 1)
    mean, label = ScalarMean(0.0, 1.0, None), torch.full((1000,), 0.5)
    few, many = mean.weights(t[:, :3], label[:3]), mean.weights(t, label)
    assert 0.5 < few[0] < 0.6 and many[0] > 0.95


def test_scalars_average_answers_and_spread_is_a_weighted_sd() -> None:
    y = torch.rand(3, 25, 1, generator=torch.Generator().manual_seed(3))
    mean, w = ScalarMean(10.0, 50.0, None), WEIGHTS.double().numpy()
    raw = y[:, :, 0].double().numpy()
    centre = w @ raw
    assert mean.combine(y, WEIGHTS)[:, 0].numpy() == pytest.approx(centre, abs=1e-6)
    assert mean.spread(y, WEIGHTS).numpy() == pytest.approx(50 * np.sqrt(w @ (raw - centre) ** 2), abs=1e-4)


def test_on_a_circle_the_seam_is_no_place() -> None:
    """350 and 30 degrees have the mean 10 and lie 20 from it, whether nets answer with the label or a point."""
    degrees, equal = torch.tensor([[350.0], [30.0]]), torch.tensor([0.5, 0.5])
    for answer in ("scalar", "circle"):
        mean = make_mean(info(label_period=360.0, label_answer=answer))
        angle = degrees / 360 * 2 * torch.pi
        out = degrees[:, :, None] / 360 if answer == "scalar" else 5 * torch.stack([angle.cos(), angle.sin()], dim=2)
        got = mean.combine(out, equal)
        label = float(got) if answer == "scalar" else float(torch.atan2(got[0, 1], got[0, 0])) / (2 * torch.pi)
        assert label * 360 % 360 == pytest.approx(10, abs=1e-3)
        assert float(mean.spread(out, equal)) == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize("period", [None, 1.0])
def test_weights_of_scalars_minimise_the_penalised_squared_error(period: float | None) -> None:
    gen = torch.Generator().manual_seed(4)
    label = torch.rand(80, generator=gen) * 360
    noise = torch.tensor([0.02, 0.05, 0.1])[:, None] * torch.randn(3, 80, generator=gen)
    out = (label / 360 + noise)[:, :, None]
    mean = ScalarMean(0.0, 360.0, period)
    got = mean.weights(out, label).numpy()
    u, a = label.double().numpy() / 360, out[:, :, 0].double().numpy()
    if period is None:
        e = (a - u)[:, :, None]
    else:
        turn = 2 * np.pi
        e = np.stack([np.cos(turn * a) - np.cos(turn * u), np.sin(turn * a) - np.sin(turn * u)], 2) / turn
    gram = np.einsum("knd,jnd->kj", e, e) / 80

    def cost(w: np.ndarray) -> float:
        return float(80 * w @ gram @ w / gram.diagonal().mean() + EVEN_IMAGES * 3 * ((w - 1 / 3) ** 2).sum())

    ends = {"bounds": [(0, 1)] * 3, "constraints": {"type": "eq", "fun": lambda w: w.sum() - 1}}
    best = minimize(cost, np.full(3, 1 / 3), method="SLSQP", options={"ftol": 1e-14, "maxiter": 500}, **ends)
    assert got == pytest.approx(best.x, abs=1e-4) and got[0] > got[1] > got[2]


@settings(max_examples=50)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_the_projection_is_the_nearest_point_of_the_simplex(values: list[float]) -> None:
    """By its optimality condition: no corner lies closer in the direction of the rest."""
    v = torch.tensor(values, dtype=torch.float64)
    w = onto_simplex(v)
    assert float(w.sum()) == pytest.approx(1) and bool((w >= 0).all())
    assert float((v - w).max()) <= float((v - w) @ w) + 1e-9


def test_the_better_one_is_kept_where_the_mean_is_no_better() -> None:
    y = torch.arange(20) % 2
    right = 4.0 * torch.nn.functional.one_hot(y, 2)
    outputs = torch.stack([right, -right]).float()
    mean, even = ClassMean(), torch.tensor([0.5, 0.5], dtype=torch.float64)

    def score(out_NO: Tensor) -> float:
        return float((out_NO.argmax(1) != y).double().mean())

    assert best_or_all(mean, outputs, y, even, score).tolist() == [1.0, 0.0]
    assert best_or_all(mean, outputs.flip(0), y, even, score).tolist() == [0.0, 1.0]
    halves = torch.where(torch.arange(20)[:, None] < 10, right, -0.5 * right)
    other = torch.where(torch.arange(20)[:, None] >= 10, right, -0.5 * right)  # each is right where the other is wrong
    assert best_or_all(mean, torch.stack([halves, other]).float(), y, even, score).tolist() == [0.5, 0.5]
    same = torch.stack([right, right]).float()  # no loss between them, so the error decides, and it is equal
    assert best_or_all(mean, same, y, even, score).tolist() in ([0.5, 0.5], [1.0, 0.0])


def test_weights_of_fakes_fall_with_the_spread() -> None:
    d = np.array([0.0, 1.0, 2.0, 3.0, 10.0])
    expected = np.exp(-0.7 * d / 2)
    got = spread_weights(torch.from_numpy(d), 0.7).numpy()
    assert got == pytest.approx(expected / expected.mean(), rel=1e-6) and got.mean() == pytest.approx(1)
    assert spread_weights(torch.zeros(4), 3.0).tolist() == [1.0] * 4  # members that never disagree
    assert spread_weights(torch.tensor([0.0, 0.0, 0.0, 4.0]), 1.0).argmin() == 3  # the mean in place of a median of 0
