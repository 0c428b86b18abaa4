from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cgankd.config import AUGMENTS, ConfigError
from cgankd.data.augment import augment, shift_pixels
from cgankd.rng import generator

SPECS = [*AUGMENTS, "shift+flip", "affine+colour+cutout"]


def images(num: int = 8, channels: int = 3, size: int = 16) -> Tensor:
    return torch.rand(num, channels, size, size, generator=generator("images", num, channels, size))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_range_determinism_and_untouched_input(spec: str, channels: int) -> None:
    x = images(channels=channels)
    before = x.clone()
    out = augment(x, spec, generator(1))
    assert out.shape == x.shape and out.dtype == x.dtype
    assert float(out.min()) >= 0 and float(out.max()) <= 1
    assert torch.equal(out, augment(x, spec, generator(1)))
    assert torch.equal(x, before)
    if spec != "none" and (spec, channels) != ("hue", 1):
        assert not torch.equal(out, augment(x, spec, generator(2)))


def test_unknown_name_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'shift'"):
        augment(images(), "shfit", generator(1))


@pytest.mark.parametrize(("size", "most"), [(16, 1), (32, 2), (64, 4), (128, 4)])
def test_shift_is_an_integer_move_with_repeated_edges(size: int, most: int) -> None:
    assert shift_pixels(size) == most
    x = images(40, 1, size)
    out = augment(x, "shift", generator(3)).numpy()
    moves = set()
    for before, after in zip(x.numpy(), out, strict=True):
        padded = np.pad(before[0], most, mode="edge")
        hits = [
            (dy, dx)
            for dy, dx in itertools.product(range(2 * most + 1), repeat=2)
            if np.array_equal(padded[dy : dy + size, dx : dx + size], after[0])
        ]
        assert len(hits) == 1
        moves.add(hits[0])
    assert {0, 2 * most} <= {dy for dy, _ in moves} and {0, 2 * most} <= {dx for _, dx in moves}


def test_resized_crop_enlarges_a_window_as_torchvision_does() -> None:
    """Windows by torchvision's rule from the same draws, image by image, and torch's own enlargement of each."""
    x, size, found = images(200, 3, 32), 32, []
    out, gen = augment(x, "resized_crop", generator(5)), generator(5)
    areas = 0.08 + 0.92 * torch.rand(200, 10, generator=gen)
    ratios = (4 / 3) ** (2 * torch.rand(200, 10, generator=gen) - 1)
    places = torch.rand(200, 2, generator=gen)
    for before, after, area_T, ratio_T, (y, x_) in zip(x, out, areas, ratios, places, strict=True):
        sides = (
            (round(size * float(area * ratio) ** 0.5), round(size * float(area / ratio) ** 0.5))
            for area, ratio in zip(area_T, ratio_T, strict=True)
        )
        width, height = next(((w, h) for w, h in sides if 0 < w <= size and 0 < h <= size), (size, size))
        top, left = int(y * (size - height + 1)), int(x_ * (size - width + 1))
        window = before[None, :, top : top + height, left : left + width]
        want = F.interpolate(window, size=(size, size), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(after, want, rtol=1e-4, atol=1e-5)
        found.append((width * height / size**2, width / height))
    shares = np.array(found)
    assert shares[:, 0].min() < 0.15 and shares[:, 0].max() > 0.9
    assert 0.7 < shares[:, 1].min() < 0.8 and 1.25 < shares[:, 1].max() < 1.45


def test_resized_crop_leaves_a_flat_image_as_it_is() -> None:
    x = torch.rand(50, 3, 1, 1).expand(-1, -1, 16, 16).contiguous()
    torch.testing.assert_close(augment(x, "resized_crop", generator(6)), x)


def test_flip_mirrors_about_half_of_the_images() -> None:
    x = images(400, 1, 4)
    out = augment(x, "flip", generator(4))
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    assert bool((mirrored | (out == x).flatten(1).all(1)).all())
    assert 150 < int(mirrored.sum()) < 250


def test_cutout_fills_a_square_with_the_mean_colour_and_leaves_the_rest() -> None:
    x = images(200, 3, 32)
    out = augment(x, "cutout", generator(5))
    mean = x.mean((2, 3), keepdim=True)
    changed = (out != x).any(1)
    assert bool(((out == mean) | (out == x)).all())
    assert int(changed.flatten(1).sum(1).max()) == 9 * 9
    rows, cols = changed.any(2).sum(1), changed.any(1).sum(1)
    assert torch.equal(rows * cols, changed.flatten(1).sum(1))
    # Centres are uniform over the image, so every border is cut about as often.
    cut = [int(side.any(1).sum()) for side in (changed[:, 0], changed[:, -1], changed[:, :, 0], changed[:, :, -1])]
    assert min(cut) > 15 and max(cut) < 60


def test_colour_is_an_affine_map_of_each_channel() -> None:
    x = 0.4 + 0.2 * images(16, 3, 8)  # Nothing near the ends, so that the clamp is idle.
    out = augment(x, "colour", generator(6))
    for before, after in zip(x.flatten(2).numpy(), out.flatten(2).numpy(), strict=True):
        for channel in range(3):
            slope, offset = np.polyfit(before[channel], after[channel], 1)
            np.testing.assert_allclose(slope * before[channel] + offset, after[channel], atol=1e-4)
            assert 0.5 < slope < 1.6


def test_affine_keeps_a_flat_image_and_moves_the_centre_only_a_little() -> None:
    flat = torch.full((4, 3, 16, 16), 0.3)
    torch.testing.assert_close(augment(flat, "affine", generator(7)), flat)
    blob = torch.zeros(300, 1, 32, 32)
    blob[:, :, 14:18, 14:18] = 1.0
    out = augment(blob, "affine", generator(8))[:, 0].double()
    place = torch.arange(32, dtype=torch.float64)
    x = (out.sum(1) * place).sum(1) / out.sum((1, 2)) - 15.5
    y = (out.sum(2) * place).sum(1) / out.sum((1, 2)) - 15.5
    # 6 % of 32 pixels, scaled by at most 1.15 and sheared a little.
    assert 1.0 < float(torch.maximum(x.abs(), y.abs()).max()) < 3.0
    area = out.sum((1, 2)) / 16
    assert 0.6 < float(area.min()) < 0.85 and 1.15 < float(area.max()) < 1.5


def test_zoom_scales_and_moves_without_turning() -> None:
    size = 32
    ramp = torch.linspace(0.2, 0.8, size, dtype=torch.float64).float().expand(200, 1, size, size)
    out = augment(ramp, "zoom", generator(10))[:, 0].double()
    torch.testing.assert_close(
        out, out[:, :1].expand_as(out), atol=1e-5, rtol=0
    )  # every row the same: no turn or shear
    step = 0.6 / (size - 1)
    inner = out[:, 16, 6:26]
    factor = step / (inner[:, -1] - inner[:, 0]) * 19
    assert 0.88 - 1e-4 <= float(factor.min()) < 0.91 and 1.09 < float(factor.max()) <= 1.12 + 1e-4
    moved = (out[:, 16, 15:17].mean(1) - 0.5) / step
    assert 1.6 < float(moved.abs().max()) <= 0.06 * size + 1e-3
    assert abs(float(moved.mean())) < 0.3


def test_hue_reorders_the_channels_of_each_image() -> None:
    x = images(120)
    out = augment(x, "hue", generator(11))
    seen = set()
    for before, after in zip(x, out, strict=True):
        hits = [p for p in itertools.permutations(range(3)) if torch.equal(before[list(p)], after)]
        assert len(hits) == 1
        seen.add(hits[0])
    assert len(seen) == 6
    grey = images(4, channels=1)
    assert torch.equal(augment(grey, "hue", generator(12)), grey)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.sampled_from([1, 3]), st.lists(st.sampled_from(AUGMENTS), min_size=1, max_size=4))
def test_any_chain_keeps_shape_and_range(num: int, channels: int, names: list[str]) -> None:
    out = augment(images(num, channels), "+".join(names), generator(9, *names))
    assert out.shape == (num, channels, 16, 16)
    assert float(out.min()) >= -1e-6 and float(out.max()) <= 1 + 1e-6


def test_crop_is_a_window_of_the_image_padded_with_an_eighth_of_zeros() -> None:
    x = 0.1 + 0.9 * images(60, 3, 16)
    moves = set()
    for before, after in zip(x.numpy(), augment(x, "crop", generator(13)).numpy(), strict=True):
        padded = np.pad(before, ((0, 0), (2, 2), (2, 2)))
        places = itertools.product(range(5), repeat=2)
        hits = [(y, x) for y, x in places if np.array_equal(padded[:, y : y + 16, x : x + 16], after)]
        assert len(hits) == 1
        moves.add(hits[0])
    assert {0, 4} <= {y for y, _ in moves} and {0, 4} <= {x for _, x in moves}


def test_cutout_half_blackens_a_square_of_half_the_side() -> None:
    x = 0.1 + 0.9 * images(200, 3, 32)
    out = augment(x, "cutout_half", generator(14))
    changed = (out != x).any(1)
    assert bool(((out == 0) | (out == x)).all())
    area = changed.flatten(1).sum(1)
    assert int(area.max()) == 16 * 16 and int(area.min()) >= 8 * 8
    assert torch.equal(changed.any(2).sum(1) * changed.any(1).sum(1), area)
