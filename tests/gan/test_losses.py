"""The GAN losses against numpy, and what the weights of a vicinity do to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cgankd.gan.losses import LOSSES, diversity_floor, hinge_d, hinge_g

scores = arrays(np.float32, 6, elements=st.floats(-5, 5, width=32))
weights = arrays(np.float32, 6, elements=st.floats(0, 1, width=32))


@given(scores, scores, weights, weights)
def test_weighted_hinge_is_the_formula(real: np.ndarray, fake: np.ndarray, w_r: np.ndarray, w_f: np.ndarray) -> None:
    expected = np.mean(w_r * np.maximum(0, 1 - real)) + np.mean(w_f * np.maximum(0, 1 + fake))
    loss = hinge_d(*(torch.from_numpy(a.copy()) for a in (real, fake, w_r, w_f)))
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


@given(scores, weights)
def test_generator_side_is_the_formula(fake: np.ndarray, weight: np.ndarray) -> None:
    fake_B, weight_B = torch.from_numpy(fake.copy()), torch.from_numpy(weight.copy())
    assert float(hinge_g(fake_B)) == pytest.approx(-float(fake.mean()), abs=1e-5)
    assert float(hinge_g(fake_B, torch.ones(6))) == pytest.approx(float(hinge_g(fake_B)), abs=1e-6)
    assert float(hinge_g(fake_B, weight_B)) == pytest.approx(-float((weight * fake).mean()), abs=1e-5)


@given(scores, scores)
def test_unit_weights_give_the_plain_hinge(real: np.ndarray, fake: np.ndarray) -> None:
    real_B, fake_B = torch.from_numpy(real.copy()), torch.from_numpy(fake.copy())
    plain = torch.relu(1 - real_B).mean() + torch.relu(1 + fake_B).mean()
    assert float(hinge_d(real_B, fake_B, torch.ones(6), torch.ones(6))) == pytest.approx(float(plain), abs=1e-6)


def test_a_pair_of_weight_zero_moves_nothing() -> None:
    real_B = torch.zeros(2, requires_grad=True)
    hinge_d(real_B, torch.zeros(2), torch.tensor([0.0, 1.0]), torch.ones(2)).backward()
    assert real_B.grad is not None and real_B.grad.tolist() == [0.0, -0.5]


@pytest.mark.parametrize(("distance", "expected"), [(0.0, 1.0), (0.1, 0.5), (0.2, 0.0), (0.7, 0.0)])
def test_diversity_floor(distance: float, expected: float) -> None:
    a = torch.zeros(3, 1, 4, 4)
    assert float(diversity_floor(a, a + distance, 0.2)) == pytest.approx(expected, abs=1e-6)


def test_the_floor_pushes_twins_apart() -> None:
    a = torch.full((1, 1, 2, 2), 0.05, requires_grad=True)
    diversity_floor(a, torch.zeros(1, 1, 2, 2), 0.2).backward()
    assert a.grad is not None and bool((a.grad < 0).all())


def test_vanilla_loss_is_the_weighted_cross_entropy() -> None:
    rng = np.random.default_rng(5)
    real, fake = rng.normal(size=7), rng.normal(size=7)
    w_r, w_f = rng.uniform(size=7), rng.uniform(size=7)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    loss_d, loss_g = LOSSES["vanilla"]
    expected = -np.mean(w_r * np.log(sigmoid(real))) - np.mean(w_f * np.log(1 - sigmoid(fake)))
    got = loss_d(*(torch.from_numpy(a.copy()) for a in (real, fake, w_r, w_f)))
    assert float(got) == pytest.approx(float(expected), abs=1e-12)
    assert float(loss_g(torch.from_numpy(fake))) == pytest.approx(float(-np.mean(np.log(sigmoid(fake)))), abs=1e-12)
