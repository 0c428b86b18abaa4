"""The only conversions of pixels: uint8 at rest, [0, 1] for teacher and student, [-1, 1] for GAN and ratio features."""

from __future__ import annotations

import torch
from torch import Tensor


def to_unit(images: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1], any shape: x / 255."""
    assert images.dtype == torch.uint8, "pixels at rest are uint8"
    return images.float().div_(255.0)


def unit_to_u8(unit: Tensor) -> Tensor:
    """Floats in [0, 1] to uint8, any shape: rounded to the nearest level, values outside are clamped."""
    assert unit.is_floating_point(), "unit pixels are floats"
    return unit.mul(255.0).round_().clamp_(0, 255).to(torch.uint8)


def levels_to_unit(levels: Tensor) -> Tensor:
    """Floats at the 256 levels 0..255 to [0, 1], any shape: the same numbers as `to_unit` gives for uint8."""
    assert levels.is_floating_point(), "levels are floats here"
    return levels / 255.0


def to_signed(images: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1], any shape: x / 127.5 - 1."""
    assert images.dtype == torch.uint8, "pixels at rest are uint8"
    return images.float().div_(127.5).sub_(1.0)


def unit_to_signed(unit: Tensor) -> Tensor:
    """Floats in [0, 1] to [-1, 1], any shape: 2 x - 1."""
    assert unit.is_floating_point(), "unit pixels are floats"
    return unit * 2.0 - 1.0


def signed_to_unit(signed: Tensor) -> Tensor:
    """Floats in [-1, 1] to [0, 1], any shape: x / 2 + 1 / 2; a gradient passes."""
    assert signed.is_floating_point(), "signed pixels are floats"
    return signed * 0.5 + 0.5


def signed_to_u8(signed: Tensor) -> Tensor:
    """Floats in [-1, 1] to uint8, any shape: rounded to the nearest level, values outside are clamped."""
    assert signed.is_floating_point(), "signed pixels are floats"
    return signed.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
