"""RandAugment (Cubuk et al., arXiv 1909.13719) on a whole batch: samples are grouped by their operation.

Operations and magnitudes are those of torchvision's `RandAugment` with its 31 bins; images are floats in [0, 1].
What moves pixels takes the nearest one and fills with black, as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_OPS = 2
"""N, operations an image."""
MAGNITUDE = 9
"""M, bin of the magnitudes."""
BINS = 31

Op = Callable[[Tensor, Tensor], Tensor]
"""Images [B, C, H, W] and signs [B] of +-1 to images."""


def rand_augment(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """N operations for each image, drawn evenly from OPS; those with two directions turn either way."""
    for _ in range(NUM_OPS):
        op_B = torch.randint(len(OPS), (len(unit_BCHW),), generator=gen).to(unit_BCHW.device)
        sign_B = (2.0 * torch.randint(2, (len(unit_BCHW),), generator=gen) - 1.0).to(unit_BCHW)
        out_BCHW = unit_BCHW.clone()
        for number, op in enumerate(OPS.values()):
            row = (op_B == number).nonzero()[:, 0]
            if len(row):
                out_BCHW[row] = op(unit_BCHW[row], sign_B[row])
        unit_BCHW = out_BCHW
    return unit_BCHW


def strength(most: float) -> float:
    """The magnitude of bin M where the largest is `most`."""
    return most * MAGNITUDE / (BINS - 1)


def identity(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """The image itself."""
    return x_BCHW


def _moved(x_BCHW: Tensor, row_x: tuple[Tensor, Tensor, Tensor], row_y: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Each output pixel (x, y), in pixels from the centre, takes the input at (a x + b y + c) of its two rows [B]."""
    height, width = x_BCHW.shape[2:]
    (xx, xy, x0), (yx, yy, y0) = row_x, row_y
    # affine_grid's axes run from -1 to 1 over either side.
    top_B3 = torch.stack([xx, xy * height / width, x0 * 2 / width], 1)
    low_B3 = torch.stack([yx * width / height, yy, y0 * 2 / height], 1)
    grid_BHW2 = F.affine_grid(torch.stack([top_B3, low_B3], 1), list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW, grid_BHW2, mode="nearest", padding_mode="zeros", align_corners=False)


def shear_x(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """Rows move sideways in proportion to their distance from the top, by up to 0.3 of it."""
    shear_B, one, zero = sign_B * strength(0.3), torch.ones_like(sign_B), torch.zeros_like(sign_B)
    return _moved(x_BCHW, (one, shear_B, shear_B * x_BCHW.shape[2] / 2), (zero, one, zero))


def shear_y(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """Columns move up or down in proportion to their distance from the left."""
    shear_B, one, zero = sign_B * strength(0.3), torch.ones_like(sign_B), torch.zeros_like(sign_B)
    return _moved(x_BCHW, (one, zero, zero), (shear_B, one, shear_B * x_BCHW.shape[3] / 2))


def translate_x(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """By whole pixels, up to 150/331 of the width."""
    move_B, one, zero = _whole(sign_B, x_BCHW.shape[3]), torch.ones_like(sign_B), torch.zeros_like(sign_B)
    return _moved(x_BCHW, (one, zero, -move_B), (zero, one, zero))


def translate_y(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """By whole pixels, up to 150/331 of the height."""
    move_B, one, zero = _whole(sign_B, x_BCHW.shape[2]), torch.ones_like(sign_B), torch.zeros_like(sign_B)
    return _moved(x_BCHW, (one, zero, zero), (zero, one, -move_B))


def _whole(sign_B: Tensor, side: int) -> Tensor:
    return sign_B * float(int(strength(150.0 / 331.0 * side)))


def rotate(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """About the centre, up to 30 degrees, positive against the clock."""
    angle_B, zero = sign_B * math.radians(strength(30.0)), torch.zeros_like(sign_B)
    cos_B, sin_B = torch.cos(angle_B), torch.sin(angle_B)
    return _moved(x_BCHW, (cos_B, -sin_B, zero), (sin_B, cos_B, zero))


def _blend(x_BCHW: Tensor, other: Tensor, sign_B: Tensor) -> Tensor:
    """f x + (1 - f) other with f = 1 +- the magnitude (0.9 at most), clamped."""
    factor_B111 = (1.0 + sign_B * strength(0.9))[:, None, None, None]
    return (factor_B111 * x_BCHW + (1.0 - factor_B111) * other).clamp(0.0, 1.0)


def _grey(x_BCHW: Tensor) -> Tensor:
    """Luma [B, 1, H, W] (ITU-R 601) of colour images; grey ones as they are."""
    if x_BCHW.shape[1] == 1:
        return x_BCHW
    weight_C11 = torch.tensor([0.2989, 0.587, 0.114]).to(x_BCHW)[:, None, None]
    return (weight_C11 * x_BCHW).sum(1, keepdim=True)


def brightness(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """Towards or away from black."""
    return _blend(x_BCHW, torch.zeros_like(x_BCHW), sign_B)


def colour(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """Saturation: towards or away from the grey image; grey images are unchanged."""
    return x_BCHW if x_BCHW.shape[1] == 1 else _blend(x_BCHW, _grey(x_BCHW), sign_B)


def contrast(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """Towards or away from the mean luma of the image."""
    return _blend(x_BCHW, _grey(x_BCHW).mean((1, 2, 3), keepdim=True), sign_B)


def sharpness(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """Towards or away from the image smoothed by a 3x3 kernel (1, with 5 in the middle, over 13); borders stay."""
    kernel_33 = torch.ones(3, 3)
    kernel_33[1, 1] = 5.0
    channels = x_BCHW.shape[1]
    weight = (kernel_33 / 13.0).to(x_BCHW).expand(channels, 1, 3, 3)
    smooth_BCHW = x_BCHW.clone()
    smooth_BCHW[:, :, 1:-1, 1:-1] = F.conv2d(x_BCHW, weight, groups=channels)
    return _blend(x_BCHW, smooth_BCHW, sign_B)


def _levels(x_BCHW: Tensor) -> Tensor:
    """The nearest of the 256 levels, int64."""
    return (x_BCHW * 255.0).round().clamp(0, 255).long()


def posterize(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """Keep the upper bits of the 8; the lower 4 go at the largest magnitude."""
    unit = 1 << round(strength(4.0))
    return (_levels(x_BCHW) // unit * unit).to(x_BCHW) / 255.0


def solarize(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """Invert the pixels from a threshold on, which sinks from 1 to 0 with the magnitude."""
    return torch.where(x_BCHW >= 1.0 - strength(1.0), 1.0 - x_BCHW, x_BCHW)


def auto_contrast(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """Stretch each channel to [0, 1]; a flat channel stays."""
    low, high = x_BCHW.amin((2, 3), keepdim=True), x_BCHW.amax((2, 3), keepdim=True)
    flat = high <= low
    stretched = (x_BCHW - low) / torch.where(flat, torch.ones_like(high), high - low)
    return torch.where(flat, x_BCHW, stretched.clamp(0.0, 1.0))


def equalize(x_BCHW: Tensor, sign_B: Tensor) -> Tensor:
    """Level the histogram of each channel over the 256 levels, as PIL does; a channel of too few levels stays."""
    num, channels, height, width = x_BCHW.shape
    level_RP = _levels(x_BCHW).reshape(num * channels, height * width)
    count_R256 = torch.zeros(num * channels, 256, dtype=torch.int64, device=x_BCHW.device)
    count_R256.scatter_add_(1, level_RP, torch.ones_like(level_RP))
    last_R = count_R256.gather(1, level_RP.amax(1, keepdim=True))[:, 0]
    step_R1 = ((height * width - last_R) // 255)[:, None]
    safe_R1 = step_R1.clamp(min=1)
    before_R256 = count_R256.cumsum(1) - count_R256
    # The level before a level's own decides where it goes; level 0 stays 0.
    table_R256 = ((before_R256 + safe_R1 // 2) // safe_R1).clamp(0, 255)
    table_R256[:, 0] = 0
    level_RP = torch.where(step_R1 > 0, table_R256.gather(1, level_RP), level_RP)
    return (level_RP.to(x_BCHW) / 255.0).reshape(x_BCHW.shape)


OPS: dict[str, Op] = {
    "Identity": identity,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
    "Brightness": brightness,
    "Color": colour,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
}
"""By the names torchvision gives them, in its order."""
