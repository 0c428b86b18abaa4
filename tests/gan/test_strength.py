"""Adaptive augmentation: the rule of p written out, and what a probability does to images."""

from __future__ import annotations

import io

import pytest
import torch

from cgankd.gan.augment import Strength, diff_augment
from cgankd.rng import generator


def by_hand(signs: list[tuple[float, float, int]], target: float, speed: int) -> list[float]:
    """p after each step; a step is (sum of weighted signs, sum of weights, images)."""
    p, found, waiting = 0.0, [], []
    for step in signs:
        waiting.append(step)
        if len(waiting) == 4:
            total, weight, images = (sum(column) for column in zip(*waiting, strict=True))
            if weight > 0:
                r = total / weight
                p += (1 if r > target else -1 if r < target else 0) * images / speed
                p = min(1.0, max(0.0, p))
            waiting = []
        found.append(p)
    return found


def test_p_follows_the_rule() -> None:
    strength, gen = Strength(0.3, 200), generator("scores")
    steps, seen = [], []
    for number in range(80):
        shift = 1.0 if number < 40 else -1.0
        score_B, weight_B = shift + torch.randn(8, generator=gen), torch.rand(8, generator=gen)
        strength.see(score_B[:4], weight_B[:4])
        strength.see(score_B[4:], weight_B[4:])
        strength.step()
        seen.append(float(strength.p))
        steps.append((float((weight_B.double() * score_B.sign()).sum()), float(weight_B.double().sum()), 8))
    assert seen == pytest.approx(by_hand(steps, 0.3, 200))
    assert max(seen) == pytest.approx(1.0) and seen[-1] == 0.0, "it rose to one end and fell to the other"
    assert seen[2] == 0 and seen[3] == pytest.approx(32 / 200), "every fourth step"


def test_r_equal_to_the_target_and_weights_of_zero_leave_p_as_it_is() -> None:
    for score, weight in ((torch.tensor([1.0, -1.0]), torch.ones(2)), (torch.ones(2), torch.zeros(2))):
        strength = Strength(0.0, 100)
        strength.p.fill_(0.5)
        for _ in range(8):
            strength.see(score, weight)
            strength.step()
        assert float(strength.p) == 0.5


def test_the_state_holds_all_of_it() -> None:
    whole, first, second = Strength(0.3, 100), Strength(0.3, 100), Strength(0.3, 100)
    score_B = torch.tensor([1.0, 2.0])
    for _ in range(10):
        whole.see(score_B, torch.ones(2))
        whole.step()
    for _ in range(6):
        first.see(score_B, torch.ones(2))
        first.step()
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    second.load_state_dict(torch.load(stream, weights_only=True))
    for _ in range(4):
        second.see(score_B, torch.ones(2))
        second.step()
    assert float(second.p) == float(whole.p) > 0 and float(second.r) == float(whole.r) == 1.0


IMAGES = torch.rand(400, 3, 16, 16, generator=generator("images")) * 2 - 1


@pytest.mark.parametrize("policy", ["color", "translation", "cutout"])
def test_each_part_changes_each_image_with_the_probability(policy: str) -> None:
    always = diff_augment(IMAGES, policy, generator("draws"), 0.5)
    assert torch.equal(diff_augment(IMAGES, policy, generator("draws"), 0.5, 1.0), always)
    assert torch.equal(diff_augment(IMAGES, policy, generator("draws"), 0.5, 0.0), IMAGES)
    some = diff_augment(IMAGES, policy, generator("draws"), 0.5, 0.3)
    kept = (some == IMAGES).flatten(1).all(1)
    assert torch.equal(some[~kept], always[~kept])
    share = float((~kept).float().mean() / (always != IMAGES).flatten(1).any(1).float().mean())
    assert share == pytest.approx(0.3, abs=0.07)


def test_parts_are_applied_independently() -> None:
    plain = torch.zeros(2000, 1, 8, 8)
    seen = diff_augment(plain + 1, "color,cutout", generator("both"), 0.5, 0.5)
    coloured = seen.amax((1, 2, 3)) != 1
    cut = (seen == 0).flatten(1).any(1)
    shares = [float((a & b).float().mean()) for a in (coloured, ~coloured) for b in (cut, ~cut)]
    assert shares == pytest.approx([0.25] * 4, abs=0.04)


def test_the_draws_do_not_depend_on_the_probability_and_a_gradient_passes() -> None:
    states = []
    for p in (0.0, 0.5, 1.0):
        gen, x_BCHW = generator("draws"), IMAGES[:8].clone().requires_grad_(True)
        diff_augment(x_BCHW, "color,translation,cutout", gen, 0.5, p).sum().backward()
        assert x_BCHW.grad is not None and float(x_BCHW.grad.abs().sum()) > 0
        states.append(gen.get_state())
    assert all(torch.equal(states[0], state) for state in states)
