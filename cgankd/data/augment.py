"""Augmentation of a whole batch at once, each image with its own draw; images are floats [B, C, H, W] in [0, 1].

A spec joins names of `config.AUGMENTS` by "+"; they are applied in that order, all draws come from one generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.config import check_augment
from cgankd.data.randaugment import rand_augment

MAX_ANGLE = math.radians(15.0)
MAX_SCALE = 0.15
MAX_SHEAR = math.tan(math.radians(8.0))
MAX_TRANSLATE = 0.06
MAX_ZOOM = 0.12
CUTOUT_SHARE = 0.28
CROP_AREA, CROP_RATIO, CROP_TRIES = (0.08, 1.0), 4 / 3, 10
HALF = 0.5
"""Side of `cutout_half` as a share of the image: 16 of 32 pixels, as usual for CIFAR (arXiv 1708.04552)."""


def augment(unit_BCHW: Tensor, spec: str, gen: torch.Generator) -> Tensor:
    """Apply the augmentations of `spec` to each image; "none" returns the input. Raises ConfigError on other names."""
    check_augment(spec, "augment")
    for name in spec.split("+"):
        unit_BCHW = _AUGMENTS[name](unit_BCHW, gen)
    return unit_BCHW


def shift_pixels(size: int) -> int:
    """Largest shift in pixels: 1 at 16 px, 2 at 32 px, 4 from 64 px."""
    return max(1, min(4, size // 16))


def _none(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    return unit_BCHW


def _shift(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """Move by whole pixels, edge pixels repeated."""
    return _window(unit_BCHW, shift_pixels(unit_BCHW.shape[2]), "replicate", gen)


def _crop(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """A random window of the image padded with an eighth of its side in zeros (4 at 32 px), as usual for CIFAR."""
    return _window(unit_BCHW, max(1, unit_BCHW.shape[2] // 8), "constant", gen)


def _window(unit_BCHW: Tensor, most: int, padding: str, gen: torch.Generator) -> Tensor:
    """Each image is one window of the batch padded by `most` pixels on every side."""
    num, _, height, width = unit_BCHW.shape
    dy_B, dx_B = torch.randint(2 * most + 1, (2, num), generator=gen).to(unit_BCHW.device)
    windows = F.pad(unit_BCHW, (most,) * 4, mode=padding).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(num, device=unit_BCHW.device), :, dy_B, dx_B]


def _affine(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """Rotation, scale, shear and a small translation in one bilinear resampling, edge pixels repeated."""
    num = len(unit_BCHW)
    angle_B, scale_B, shear_B, x_B, y_B = torch.rand(5, num, generator=gen) * 2 - 1
    cos_B, sin_B = torch.cos(MAX_ANGLE * angle_B), torch.sin(MAX_ANGLE * angle_B)
    zoom_B = 1.0 / (1.0 + MAX_SCALE * scale_B)
    shear_B = MAX_SHEAR * shear_B
    top_B = torch.stack([cos_B, cos_B * shear_B - sin_B], 1) * zoom_B[:, None]
    low_B = torch.stack([sin_B, sin_B * shear_B + cos_B], 1) * zoom_B[:, None]
    # grid_sample's axes run from -1 to 1, so a share t of the side is 2 t.
    move_B = 2 * MAX_TRANSLATE * torch.stack([x_B, y_B], 1)
    theta_B23 = torch.cat([torch.stack([top_B, low_B], 1), move_B[:, :, None]], 2).to(unit_BCHW)
    grid_BHW2 = F.affine_grid(theta_B23, list(unit_BCHW.shape), align_corners=False)
    return F.grid_sample(unit_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)


def _zoom(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """Scale and translation alone, in one bilinear resampling, edge pixels repeated: no label turns with them."""
    num = len(unit_BCHW)
    draw_B3 = torch.rand(num, 3, generator=gen) * 2 - 1
    theta_B23 = torch.zeros(num, 2, 3)
    theta_B23[:, 0, 0] = theta_B23[:, 1, 1] = 1.0 / (1.0 + MAX_ZOOM * draw_B3[:, 0])
    theta_B23[:, :, 2] = 2 * MAX_TRANSLATE * draw_B3[:, 1:]
    grid_BHW2 = F.affine_grid(theta_B23.to(unit_BCHW), list(unit_BCHW.shape), align_corners=False)
    return F.grid_sample(unit_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)


def _hue(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """The colour channels of each image in a random order: other hues, the same light and shade; grey is unchanged."""
    num, channels = unit_BCHW.shape[:2]
    order_BC = torch.rand(num, channels, generator=gen).argsort(dim=1).to(unit_BCHW.device)
    return unit_BCHW[torch.arange(num, device=unit_BCHW.device)[:, None], order_BC]


def _colour(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """Contrast about the image mean, brightness, and a gain for each channel; clamped to [0, 1]."""
    num, channels = unit_BCHW.shape[:2]
    draw = (torch.rand(num, channels + 2, generator=gen) * 2 - 1).to(unit_BCHW)
    gain_BC11 = 1.0 + 0.2 * draw[:, :channels, None, None]
    brightness_B111 = 0.15 * draw[:, channels, None, None, None]
    contrast_B111 = 1.0 + 0.3 * draw[:, channels + 1, None, None, None]
    mean_B111 = unit_BCHW.mean((1, 2, 3), keepdim=True)
    offset_B111 = mean_B111 * (1.0 - contrast_B111) + brightness_B111
    return (unit_BCHW * (gain_BC11 * contrast_B111) + gain_BC11 * offset_B111).clamp_(0.0, 1.0)


def _cutout(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """Fill a square of CUTOUT_SHARE of the side with the image's mean colour."""
    return _cut(unit_BCHW, CUTOUT_SHARE, unit_BCHW.mean((2, 3), keepdim=True), gen)


def _cutout_half(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """Fill a square of half the side with black."""
    return _cut(unit_BCHW, HALF, torch.zeros(()).to(unit_BCHW), gen)


def _cut(unit_BCHW: Tensor, share: float, fill: Tensor, gen: torch.Generator) -> Tensor:
    """Fill a square of this share of the side, centred anywhere in the image."""
    num, _, height, width = unit_BCHW.shape
    side = max(1, round(share * height))
    y_B = torch.randint(height, (num,), generator=gen) - side // 2
    x_B = torch.randint(width, (num,), generator=gen) - side // 2
    rows_BH = _within(y_B, side, height)
    cols_BW = _within(x_B, side, width)
    hole_B1HW = (rows_BH[:, None, :, None] & cols_BW[:, None, None, :]).to(unit_BCHW.device)
    return torch.where(hole_B1HW, fill, unit_BCHW)


def _within(start_B: Tensor, length: int, size: int) -> Tensor:
    """True [B, size] at positions in [start, start + length)."""
    offset_BS = torch.arange(size) - start_B[:, None]
    return (offset_BS >= 0) & (offset_BS < length)


def _flip(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """Mirror left to right with probability one half."""
    mirrored_B = (torch.rand(len(unit_BCHW), generator=gen) < 0.5).to(unit_BCHW.device)
    return torch.where(mirrored_B[:, None, None, None], unit_BCHW.flip(3), unit_BCHW)


def _resized_crop(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """A window of CROP_AREA of the image, CROP_RATIO as wide as high, enlarged to its size, as usual for ImageNet.

    Area is uniform, the logarithm of the ratio too. The first of CROP_TRIES draws that fits counts, else the whole image.
    """
    num, _, height, width = unit_BCHW.shape
    low, high = CROP_AREA
    area_BT = height * width * (low + (high - low) * torch.rand(num, CROP_TRIES, generator=gen))
    ratio_BT = torch.exp(math.log(CROP_RATIO) * (2 * torch.rand(num, CROP_TRIES, generator=gen) - 1))
    wide_BT, high_BT = (area_BT * ratio_BT).sqrt().round(), (area_BT / ratio_BT).sqrt().round()
    fits_BT = (wide_BT >= 1) & (wide_BT <= width) & (high_BT >= 1) & (high_BT <= height)
    first_B1 = fits_BT.to(torch.uint8).argmax(dim=1, keepdim=True)
    whole_B = ~fits_BT.any(dim=1)
    place_B2 = torch.rand(num, 2, generator=gen)
    rows_BH = _enlarged(high_BT.gather(1, first_B1)[:, 0].masked_fill(whole_B, height), place_B2[:, 0], height)
    cols_BW = _enlarged(wide_BT.gather(1, first_B1)[:, 0].masked_fill(whole_B, width), place_B2[:, 1], width)
    x_BHW, y_BHW = cols_BW[:, None, :].expand(-1, height, -1), rows_BH[:, :, None].expand(-1, -1, width)
    grid_BHW2 = torch.stack([x_BHW, y_BHW], dim=3).to(unit_BCHW)
    return F.grid_sample(unit_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)


def _enlarged(length_B: Tensor, place_B: Tensor, size: int) -> Tensor:
    """Where each of `size` pixels looks, in grid_sample's axis: in a window of this length whose start is uniform.

    Positions stop at the centres of the window's outer pixels, so that none outside of it is mixed in.
    """
    start_B1 = (place_B * (size - length_B + 1)).floor()[:, None]
    length_B1 = length_B[:, None]
    pixel_BS = (torch.arange(size) + 0.5) * length_B1 / size - 0.5
    return (2 * (start_B1 + pixel_BS.clamp(min=0).minimum(length_B1 - 1)) + 1) / size - 1


_AUGMENTS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": _none,
    "shift": _shift,
    "affine": _affine,
    "zoom": _zoom,
    "hue": _hue,
    "colour": _colour,
    "cutout": _cutout,
    "flip": _flip,
    "crop": _crop,
    "cutout_half": _cutout_half,
    "randaugment": rand_augment,
    "resized_crop": _resized_crop,
}
