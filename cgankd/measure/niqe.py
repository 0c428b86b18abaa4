"""NIQE, how natural an image looks without a picture to compare it with (Mittal et al., IEEE SPL 20(3), 2013).

A Gaussian is fitted to 36 statistics of the patches of real images; an image is as bad as its own Gaussian is far from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.special import gamma
from torch import Tensor
from torch.nn import functional as F

from cgankd.types import Images

PATCH = 8
"""Least side of a patch; larger images have patches of an eighth of their side."""
SHARP = 0.75
"""Patches of a real image count that are sharper than this share of its sharpest one."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness."""
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Down and right: the neighbours that a pixel is multiplied with."""
GRID = torch.arange(200, 10_001, dtype=torch.float64) / 1000
"""Shapes alpha that are tried, 0.2 to 10."""
MOMENT = torch.from_numpy(gamma(2 / GRID.numpy()) ** 2 / (gamma(1 / GRID.numpy()) * gamma(3 / GRID.numpy())))
"""rho(alpha) = Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)), rising."""


@dataclass(frozen=True)
class NaturalModel:
    """Mean [36] and covariance [36, 36] of the patch statistics of real images."""

    mean: Tensor
    covariance: Tensor


def asymmetric_fit(x_PM: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shape, mean, left and right scale [P] of the asymmetric generalised Gaussian whose moments are those of M values."""

    def half(side_PM: Tensor) -> Tensor:
        return (x_PM.square() * side_PM).sum(1).div(side_PM.sum(1).clamp(min=1)).sqrt()

    left, right = half((x_PM < 0).double()).clamp(min=1e-12), half((x_PM > 0).double()).clamp(min=1e-12)
    skew = left / right
    ratio = x_PM.abs().mean(1).square() / x_PM.square().mean(1).clamp(min=1e-24)
    wanted = ratio * (skew**3 + 1) * (skew + 1) / (skew.square() + 1).square()
    above = torch.searchsorted(MOMENT, wanted).clamp(1, len(GRID) - 1)
    nearer_below = (wanted - MOMENT[above - 1]).abs() < (MOMENT[above] - wanted).abs()
    shape = GRID[above - nearer_below.long()]
    g1, g2, g3 = (torch.lgamma(n / shape) for n in (1.0, 2.0, 3.0))
    scale = torch.exp((g1 - g3) / 2)
    mean = (right - left) * scale * torch.exp(g2 - g1)
    return shape, mean, left * scale, right * scale


def normalised(grey_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """(I - mu) / (sigma + 1) with mean and sd in a Gaussian window of 7x7 pixels, and that sd; I from 0 to 255."""
    at = torch.arange(-3, 4, dtype=torch.float64)
    window = torch.exp(-(at**2) / (2 * (7 / 6) ** 2))
    window = window / window.sum()

    def blurred(x_BHW: Tensor) -> Tensor:
        padded = F.pad(x_BHW[:, None], (3, 3, 3, 3), mode="replicate")
        return F.conv2d(F.conv2d(padded, window[None, None, :, None]), window[None, None, None, :])[:, 0]

    mean_BHW = blurred(grey_BHW)
    sd_BHW = (blurred(grey_BHW.square()) - mean_BHW.square()).abs().sqrt()
    return (grey_BHW - mean_BHW) / (sd_BHW + 1), sd_BHW


def patches(x_BHW: Tensor, side: int) -> Tensor:
    """The values of each patch [B, P, side * side], left to right and top to bottom."""
    return F.unfold(x_BHW[:, None], side, stride=side).transpose(1, 2)


def statistics(images_BCHW: Images) -> tuple[Tensor, Tensor]:
    """The 36 statistics [B, P, 36] of each patch at two scales, and its sharpness [B, P], of uint8 images."""
    image_BCHW = images_BCHW[:].double()
    weight = torch.tensor(LUMA if image_BCHW.shape[1] == 3 else (1.0,), dtype=torch.float64)
    grey_BHW = torch.einsum("bchw,c->bhw", image_BCHW, weight)
    side = max(PATCH, grey_BHW.shape[-1] // 8)
    found, sharpness = [], torch.zeros(0)
    for scale in (1, 2):
        if scale == 2:
            half = grey_BHW.shape[-1] // 2
            grey_BHW = F.interpolate(grey_BHW[:, None], (half, half), mode="bicubic", antialias=True)[:, 0]
        norm_BHW, sd_BHW = normalised(grey_BHW)
        values = patches(norm_BHW, side // scale)
        batch, count = values.shape[:2]
        shape, _, left, right = asymmetric_fit(values.flatten(0, 1))
        columns = [shape, (left + right) / 2]
        for down, across in SHIFTS:
            product = norm_BHW * torch.roll(norm_BHW, (down, across), (1, 2))
            columns += asymmetric_fit(patches(product, side // scale).flatten(0, 1))
        found.append(torch.stack(columns, 1).reshape(batch, count, -1))
        if scale == 1:
            sharpness = patches(sd_BHW, side).mean(2)
    return torch.cat(found, 2), sharpness


def fit_natural(images_NCHW: Images) -> NaturalModel:
    """The model of real images: their sharp patches alone, as blurred ones say little of what is natural."""
    value_NPF, sharp_NP = statistics(images_NCHW)
    chosen_MF = value_NPF[sharp_NP >= SHARP * sharp_NP.amax(1, keepdim=True)]
    return NaturalModel(chosen_MF.mean(0), torch.cov(chosen_MF.T))


def niqe(images_NCHW: Images, model: NaturalModel) -> Tensor:
    """sqrt((a - b)^T ((A + B) / 2)^-1 (a - b)) [N], with mean and covariance of each image's patches and of the model."""
    value_NPF, _ = statistics(images_NCHW)
    away_NF = value_NPF.mean(1) - model.mean
    centred = value_NPF - value_NPF.mean(1, keepdim=True)
    own_NFF = centred.transpose(1, 2) @ centred / max(1, value_NPF.shape[1] - 1)
    inverse = torch.linalg.pinv((own_NFF + model.covariance) / 2, hermitian=True)
    return torch.einsum("nf,nfg,ng->n", away_NF, inverse, away_NF).clamp(min=0).sqrt()
