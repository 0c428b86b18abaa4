"""Heads on the fixed features of a trained net at several scales: projected GANs (Sauer et al., arXiv 2111.01007).

The maps of the net are mixed by weights that are drawn once and never trained: 1x1 convolutions across channels, and from
coarse to fine 3x3 convolutions across scales. So no head can rest on the few channels in which fakes are easiest to tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.gans.spectral import SNConv2d, SNLinear

MIXED = 64
"""Channels of every mixed map."""
SLOPE = 0.2


class FixedFeatures(nn.Module):
    """A frozen trained net and the fixed mixing of its maps: images [B, C, H, W] in [-1, 1] to K maps, fine to coarse.

    `stages` in a row are the net, of which the map after each is taken; they see images of side `size` with pixels (x - mean)
    / std, in float32 under any autocast, as depthwise convolutions have no fast bf16 kernel on processors. `gen` draws the
    mixing. Until `calibrate` has seen images the mixed maps have no scale.
    """

    def __init__(self, stages: Sequence[nn.Module], mean: float, std: float, size: int, gen: torch.Generator) -> None:
        super().__init__()
        self.stages, self.size, self.mean, self.std = nn.ModuleList(stages).eval(), size, mean, std
        with torch.no_grad():
            shapes = [x_BCHW.shape for x_BCHW in self.maps(torch.zeros(1, 3, size, size))]
        self.sides = [shape[-1] for shape in shapes]
        self.across = nn.ModuleList(drawn(shape[1], 1, gen) for shape in shapes)
        self.down = nn.ModuleList(drawn(MIXED, 3, gen) for _ in shapes)
        self.across_scale = nn.ModuleList(Standard() for _ in shapes)
        self.down_scale = nn.ModuleList(Standard() for _ in shapes)
        self.eval().requires_grad_(False)

    def maps(self, x_BCHW: Tensor) -> list[Tensor]:
        """The net's own maps [B, C_k, H_k, W_k] of images in [-1, 1]; grey ones are shown in three equal channels."""
        x_BCHW = x_BCHW.float()
        if x_BCHW.shape[1] == 1:
            x_BCHW = x_BCHW.expand(-1, 3, -1, -1)
        if x_BCHW.shape[-1] != self.size:
            x_BCHW = F.interpolate(x_BCHW, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        x_BCHW = ((0.5 * x_BCHW + 0.5 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        found = []
        with torch.autocast(x_BCHW.device.type, enabled=False):
            for stage in self.stages:
                x_BCHW = stage(x_BCHW)
                found.append(x_BCHW)
        return found

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """K mixed maps [B, MIXED, H_k, W_k], each channel with mean 0 and sd 1 over the images of `calibrate`."""
        across = [
            scale(mix(x_BCHW))
            for scale, mix, x_BCHW in zip(self.across_scale, self.across, self.maps(x_BCHW), strict=True)
        ]
        mixed: list[Tensor] = []
        for number in reversed(range(len(across))):
            inner = across[number]
            if mixed:
                inner = inner + F.interpolate(mixed[0], inner.shape[-2:], mode="bilinear", align_corners=False)
            mixed.insert(0, self.down_scale[number](self.down[number](inner)))
        return mixed

    @torch.no_grad()
    def calibrate(self, x_BCHW: Tensor) -> None:
        """Give every mixed channel mean 0 and sd 1 over these images in [-1, 1], those of the first mixing before the second."""
        for scale in (*self.across_scale, *self.down_scale):
            scale.measuring = True
        self(x_BCHW)
        for scale in (*self.across_scale, *self.down_scale):
            scale.measuring = False


class Standard(nn.Module):
    """(x - mean) / sd of each channel, with a mean and an sd measured once."""

    centre: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.measuring = False
        self.register_buffer("centre", torch.zeros(MIXED))
        self.register_buffer("spread", torch.ones(MIXED))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, MIXED, H, W], the same shape; a channel that never changed is only centred."""
        if self.measuring:
            sd_C, mean_C = torch.std_mean(x_BCHW.float(), dim=(0, 2, 3), correction=0)
            self.centre.copy_(mean_C)
            self.spread.copy_(torch.where(sd_C > 1e-6, sd_C, torch.ones_like(sd_C)))
        out: Tensor = (x_BCHW - self.centre.to(x_BCHW)[:, None, None]) / self.spread.to(x_BCHW)[:, None, None]
        return out


def drawn(inputs: int, kernel: int, gen: torch.Generator) -> nn.Conv2d:
    """A convolution to MIXED channels with weights from N(0, 1 / fan-in) and no bias."""
    mix = nn.Conv2d(inputs, MIXED, kernel, padding=kernel // 2, bias=False)
    with torch.no_grad():
        mix.weight.copy_(torch.randn(mix.weight.shape, generator=gen) / mix.weight[0].numel() ** 0.5)
    return mix.to(memory_format=torch.channels_last)


class FeatureHead(nn.Module):
    """A small projection discriminator of one mixed map: psi(phi) + <V h, phi>, phi the sum over at most 4x4 places."""

    def __init__(self, embed_dim: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        while side > 4:
            layers += [SNConv2d(MIXED, MIXED, 4, stride=2), nn.LeakyReLU(SLOPE)]
            side //= 2
        self.blocks = nn.Sequential(*layers, SNConv2d(MIXED, MIXED, 3), nn.LeakyReLU(SLOPE))
        self.psi = SNLinear(MIXED, 1)
        self.project = SNLinear(embed_dim, MIXED, bias=False)

    def forward(self, x_BCHW: Tensor, h_BE: Tensor) -> Tensor:
        """A mixed map [B, MIXED, H, W] and h [B, E] to scores float32 [B]; the end runs in fp32."""
        phi_BCHW = self.blocks(x_BCHW)
        with torch.autocast(x_BCHW.device.type, enabled=False):
            phi_BF = phi_BCHW.float().sum(dim=(2, 3))
            score_B: Tensor = self.psi(phi_BF)[:, 0] + (self.project(h_BE.float()) * phi_BF).sum(dim=1)
        return score_B


class FeatureHeads(nn.Module):
    """A head for each mixed map."""

    def __init__(self, embed_dim: int, sides: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(FeatureHead(embed_dim, side) for side in sides)

    def forward(self, maps: Sequence[Tensor], h_BE: Tensor) -> Tensor:
        """K maps of B images and h [B, E] to scores [K, B]."""
        return torch.stack([head(x_BCHW, h_BE) for head, x_BCHW in zip(self.heads, maps, strict=True)])


def pooled(maps: Sequence[Tensor]) -> Tensor:
    """The means of K maps over places in float32, [B, K * MIXED]."""
    return torch.cat([x_BCHW.float().mean(dim=(2, 3)) for x_BCHW in maps], dim=1)
