"""BigGAN-deep (arXiv 1809.11096, appendix B): twice the blocks of BigGAN, each a bottleneck of a quarter of its channels.

Shortcuts have no weights in the generator: channels are dropped, and in the discriminator only what is new is computed.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.gans.attention import SelfAttention
from cgankd.nets.gans.generator import ConditionalNorm
from cgankd.nets.gans.plans import Plan
from cgankd.nets.gans.projection import ProjectionDiscriminator
from cgankd.nets.gans.spectral import SNConv2d, SNLinear

BOTTLENECK = 4
"""Channels of a block over those of its inner convolutions."""


class DeepGrowBlock(nn.Module):
    """1x1, two 3x3 and 1x1 convolutions, each after a conditional norm and a ReLU; with `up` it doubles the resolution.

    The generator's shortcut keeps the first channels where there are fewer of them after the block.
    """

    def __init__(self, inputs: int, outputs: int, cond_dim: int, *, up: bool, spectral: bool, gains: bool) -> None:
        super().__init__()
        hidden = max(1, inputs // BOTTLENECK)
        self.up, self.outputs = up, outputs
        widths, kernels = (inputs, hidden, hidden, hidden, outputs), (1, 3, 3, 1)
        self.norms = nn.ModuleList(ConditionalNorm(width, cond_dim, spectral and gains) for width in widths[:-1])
        self.convs = nn.ModuleList(
            SNConv2d(a, b, kernel, spectral=spectral)
            for (a, b), kernel in zip(itertools.pairwise(widths), kernels, strict=True)
        )

    def forward(self, x_BCHW: Tensor, cond_BD: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', 2H, 2W], or the same size without `up`."""
        inner, shortcut = x_BCHW, x_BCHW[:, : self.outputs]
        for number, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            inner = F.relu(norm(inner, cond_BD))
            if self.up and number == 1:
                inner, shortcut = F.interpolate(inner, scale_factor=2.0), F.interpolate(shortcut, scale_factor=2.0)
            inner = conv(inner)
        return inner + shortcut


class DeepGenerator(nn.Module):
    """[h, z] whole to 4x4 and to every norm; two blocks a resolution, the second of which doubles it."""

    def __init__(
        self, cond_dim: int, width: int, channels: int, plan: Plan, *, spectral: bool, gains: bool = True
    ) -> None:
        super().__init__()
        self.channels, self.image_size, self.attention_at = channels, plan.image_size, plan.attention
        widths = [width * factor for factor in plan.generator]
        self.start = SNLinear(cond_dim, widths[0] * 16, spectral=spectral)
        self.blocks = nn.ModuleList(
            DeepGrowBlock(a, out, cond_dim, up=up, spectral=spectral, gains=gains)
            for a, b in itertools.pairwise(widths)
            for out, up in ((a, False), (b, True))
        )
        if plan.attention is not None:
            place = plan.attention.bit_length() - 3  # resolutions done at this one
            self.attention = SelfAttention(widths[place], spectral, bias=False)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.to_pixels = SNConv2d(widths[-1], channels, 3, spectral=spectral)

    def forward(self, z_BZ: Tensor, h_BE: Tensor) -> Tensor:
        """z [B, Z] and h [B, E] to float32 images [B, C, H, W] in [-1, 1]."""
        cond_BD = torch.cat([h_BE, z_BZ], dim=1)
        x_BCHW = self.start(cond_BD).unflatten(1, (-1, 4, 4)).contiguous(memory_format=torch.channels_last)
        for number, block in enumerate(self.blocks):
            x_BCHW = block(x_BCHW, cond_BD)
            if number % 2 and x_BCHW.shape[-1] == self.attention_at:
                x_BCHW = self.attention(x_BCHW)
        x_BCHW = self.to_pixels(F.relu(self.norm(x_BCHW)))
        return torch.tanh(x_BCHW.float())


class DeepShrinkBlock(nn.Module):
    """1x1, two 3x3 and 1x1 convolutions, each after a ReLU; with `down` the resolution is halved before the last.

    The shortcut keeps its channels and computes only those that it lacks.
    """

    def __init__(self, inputs: int, outputs: int, down: bool) -> None:
        super().__init__()
        hidden = max(1, outputs // BOTTLENECK)
        self.down = down
        self.conv1, self.conv2 = SNConv2d(inputs, hidden, 1), SNConv2d(hidden, hidden, 3)
        self.conv3, self.conv4 = SNConv2d(hidden, hidden, 3), SNConv2d(hidden, outputs, 1)
        self.shortcut = SNConv2d(inputs, outputs - inputs, 1) if outputs > inputs else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / 2, W / 2], or the same size without `down`."""
        inner = self.conv2(F.relu(self.conv1(F.relu(x_BCHW))))
        inner = F.relu(self.conv3(F.relu(inner)))
        if self.down:
            inner, x_BCHW = F.avg_pool2d(inner, 2), F.avg_pool2d(x_BCHW, 2)
        inner = self.conv4(inner)
        if self.shortcut is not None:
            x_BCHW = torch.cat([x_BCHW, self.shortcut(x_BCHW)], dim=1)
        out: Tensor = inner + x_BCHW
        return out


class DeepDiscriminator(ProjectionDiscriminator):
    """A 3x3 stem, then two blocks for each step of the plan, the first of which goes down."""

    def __init__(self, embed_dim: int, width: int, channels: int, plan: Plan) -> None:
        super().__init__()
        widths = [width * factor for factor in plan.discriminator]
        layers: list[nn.Module] = [SNConv2d(channels, widths[0], 3)]
        size = plan.image_size
        for number, (a, b) in enumerate(itertools.pairwise(widths)):
            down = number < plan.down_blocks
            layers += [DeepShrinkBlock(a, b, down), DeepShrinkBlock(b, b, down=False)]
            size = size // 2 if down else size
            if down and size == plan.attention:
                layers.append(SelfAttention(b, bias=False))
        self.blocks = nn.Sequential(*layers)
        self.build_head(embed_dim, widths[-1])
