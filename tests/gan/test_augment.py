"""DiffAugment: exact shifts, holes and colours, gradients, and draws that depend on the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgankd.gan.augment import cut_out, diff_augment, draw_shifts, jitter_colour, translate
from cgankd.rng import generator

ALL = "color,translation,cutout"


def images(num: int = 8, channels: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand(num, channels, size, size, generator=generator("images")) * 1.8 - 0.9


@settings(deadline=None)
@given(st.integers(-5, 5), st.integers(-5, 5))
def test_translation_is_an_exact_shift_filled_with_zero(down: int, right: int) -> None:
    x = images(1)
    moved = translate(x, torch.tensor([[down, right]])).numpy()
    size = x.shape[-1]
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (5, 5), (5, 5)))
    expected = padded[:, :, 5 - down : 5 - down + size, 5 - right : 5 - right + size]
    np.testing.assert_array_equal(moved, expected)


def test_each_image_moves_by_its_own_shift() -> None:
    x = images(2)
    moved = translate(x, torch.tensor([[0, 0], [1, 0]]))
    assert torch.equal(moved[0], x[0]) and torch.equal(moved[1, :, 1:], x[1, :, :-1])


def test_shifts_reach_both_ends() -> None:
    shift = draw_shifts(2000, 2, generator("shift"))
    assert shift.unique().tolist() == [-2, -1, 0, 1, 2]


def test_off_is_the_identity_and_draws_nothing() -> None:
    x, gen = images(), generator("off")
    before = gen.get_state()
    assert diff_augment(x, "", gen, 0.5) is x
    assert torch.equal(gen.get_state(), before)


def test_unknown_part_is_named() -> None:
    with pytest.raises(ValueError, match=r"cgan\.diffaugment .*'rotate'"):
        diff_augment(images(), "rotate", generator("bad"), 0.5)


@pytest.mark.parametrize("policy", ["color", "translation", "cutout", ALL])
def test_gradient_reaches_the_image_and_is_right(policy: str) -> None:
    x = images(2, 3, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: diff_augment(v, policy, generator("grad"), 0.25), (x,))


@pytest.mark.parametrize("policy", ["color", "translation", "cutout", ALL])
def test_draws_depend_on_the_generator_alone_and_differ_between_images(policy: str) -> None:
    x = images(1).expand(32, -1, -1, -1)
    first = diff_augment(x, policy, generator("a"), 0.5)
    assert torch.equal(first, diff_augment(x, policy, generator("a"), 0.5))
    assert not torch.equal(first, diff_augment(x, policy, generator("b"), 0.5))
    assert len(first.flatten(1).unique(dim=0)) > 8


def test_cutout_zeroes_one_square_and_leaves_the_rest() -> None:
    x = images(64).abs() + 0.01
    cut = cut_out(x, 0.5, generator("cut"))
    hole = cut[:, 0] == 0
    assert torch.equal(cut.masked_select(~hole[:, None]), x.masked_select(~hole[:, None]))
    heights, widths = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(hole.sum((1, 2)), heights * widths)
    assert int(heights.max()) == int(widths.max()) == 8


def test_colour_keeps_a_grey_image_grey_and_moves_its_mean_by_at_most_a_half() -> None:
    x = images(64, 1).expand(-1, 3, -1, -1)
    out = jitter_colour(x, generator("colour"))
    assert float(out.var(dim=1).max()) < 1e-10
    move = (out.mean((1, 2, 3)) - x.mean((1, 2, 3))).abs()
    assert 0.3 < float(move.max()) <= 0.5 + 1e-5
