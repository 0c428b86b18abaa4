"""EfficientNet-B0 (Tan and Le, arXiv 1905.11946): with a stem of stride 1 for small images, and as cGAN-KD has it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.predictors.staged import LINEAR, End, Staged, conv_norm, start_weights

STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Expansion, channels, blocks, stride of the first one, kernel (table 1 of the paper)."""
LAST = 1280


@dataclass(frozen=True)
class Kind:
    """What differs between the EfficientNet-B0 of the literature."""

    stem_stride: int = 1
    last: bool = True
    """A 1x1 convolution to 1280 channels before the mean."""
    same: bool = False
    """Strided convolutions are padded as TensorFlow does: the odd row and column at the end alone."""
    norm: tuple[float, float] = (1e-5, 0.1)
    """Epsilon and momentum of batch norm."""
    drop_path: float = 0.0
    """Share of images that skip the last block in training (stochastic depth, arXiv 1603.09382); linear from 0 at the first."""


PLAIN = Kind()


class Gate(nn.Module):
    """Squeeze and excitation (arXiv 1709.01507): each channel times a sigmoid of what the means of all say."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.fc2 = nn.Conv2d(inner, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        means = x_BCHW.mean((2, 3), keepdim=True)
        gate: Tensor = self.fc2(F.silu(self.fc1(means))).sigmoid()
        return x_BCHW * gate


class GatedResidual(nn.Module):
    """An inverted residual with SiLU and a gate of a quarter of its input channels; its last 1x1 stays linear."""

    def __init__(
        self, c_in: int, c_out: int, stride: int, expansion: int, kernel: int, *, same: bool, drop: float
    ) -> None:
        super().__init__()
        inner = c_in * expansion
        self.adds, self.drop = stride == 1 and c_in == c_out, drop
        expand = [*conv_norm(c_in, inner, 1), nn.SiLU()] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            *strided(inner, inner, kernel, stride, groups=inner, same=same),
            nn.SiLU(),
            Gate(inner, max(1, c_in // 4)),
            *conv_norm(inner, c_out, 1),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.layers(x_BCHW)
        if not self.adds:
            return out
        if self.drop and self.training:
            kept_B111 = torch.rand(len(out), 1, 1, 1, dtype=out.dtype, device=out.device) >= self.drop
            out = out * kept_B111 / (1 - self.drop)
        return x_BCHW + out


def strided(c_in: int, c_out: int, kernel: int, stride: int, *, groups: int = 1, same: bool = False) -> list[nn.Module]:
    """Convolution without bias and batch norm, with `same` padded as TensorFlow pads maps of even height."""
    if stride == 1 or not same:
        return [*conv_norm(c_in, c_out, kernel, stride, groups)]
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    conv = nn.Conv2d(c_in, c_out, kernel, stride, groups=groups, bias=False)
    return [nn.ZeroPad2d((before, after, before, after)), conv, nn.BatchNorm2d(c_out)]


class EfficientNetB0(Staged):
    """The stem, seven groups of gated residuals and a 1x1 convolution to 1280 channels; 4,135,648 numbers at 100 classes.

    A stage is all that runs at one resolution; it ends in a linear bottleneck.
    """

    def __init__(
        self, num_outputs: int, channels: int, image_size: int, *, kind: Kind = PLAIN, end: End = LINEAR
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(*strided(channels, 32, 3, kind.stem_stride, same=kind.same), nn.SiLU())
        self.blocks = nn.ModuleList()
        c_in, done, total = 32, 0, sum(count for _, _, count, _, _ in STAGES)
        for expansion, width, count, stride, kernel in STAGES:
            layers = []
            for number in range(count):
                own, drop = stride if number == 0 else 1, kind.drop_path * done / total
                layers.append(GatedResidual(c_in, width, own, expansion, kernel, same=kind.same, drop=drop))
                c_in, done = width, done + 1
            self.blocks.append(nn.Sequential(*layers))
        self.last = nn.Sequential(*conv_norm(c_in, LAST, 1), nn.SiLU()) if kind.last else nn.Identity()
        self.end_in(LAST if kind.last else c_in, num_outputs, end)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = kind.norm
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """The last linear bottleneck at each resolution, and the map that is averaged."""
        preacts: list[Tensor] = []
        x_BCHW = self.stem(x_BCHW)
        for block, (_, _, _, stride, _) in zip(self.blocks, STAGES, strict=True):
            if stride == 2:
                preacts.append(x_BCHW)
            x_BCHW = block(x_BCHW)
        return [*preacts, x_BCHW], self.last(x_BCHW)
