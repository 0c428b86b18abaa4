"""The conditional residual GANs of the papers: SNGAN, SAGAN and BigGAN differ in a Plan (cgankd.nets.gans.plans)."""

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


class GrowBlock(nn.Module):
    """A residual block of the generator that doubles the resolution before its first convolution.

    The 1x1 shortcut runs before the upsampling: the two commute, and so it costs a quarter.
    """

    def __init__(self, inputs: int, outputs: int, cond_dim: int, spectral: bool, gains: bool) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(inputs, cond_dim, spectral and gains)
        self.conv1 = SNConv2d(inputs, outputs, 3, spectral=spectral)
        self.norm2 = ConditionalNorm(outputs, cond_dim, spectral and gains)
        self.conv2 = SNConv2d(outputs, outputs, 3, spectral=spectral)
        self.shortcut = SNConv2d(inputs, outputs, 1, spectral=spectral)

    def forward(self, x_BCHW: Tensor, cond_BD: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', 2H, 2W]."""
        inner = F.interpolate(F.relu(self.norm1(x_BCHW, cond_BD)), scale_factor=2.0)
        inner = self.conv2(F.relu(self.norm2(self.conv1(inner), cond_BD)))
        out: Tensor = inner + F.interpolate(self.shortcut(x_BCHW), scale_factor=2.0)
        return out


class ShrinkBlock(nn.Module):
    """A residual block of the discriminator; with `down` it halves the resolution after its second convolution.

    The first block of a net sees pixels, so it has no ReLU before its first convolution. A block that keeps width and
    resolution has the identity as its shortcut.
    """

    def __init__(self, inputs: int, outputs: int, *, wide: bool, down: bool, first: bool) -> None:
        super().__init__()
        self.down, self.first = down, first
        hidden = outputs if wide or first else inputs
        self.conv1 = SNConv2d(inputs, hidden, 3)
        self.conv2 = SNConv2d(hidden, outputs, 3)
        self.shortcut = SNConv2d(inputs, outputs, 1) if down or inputs != outputs else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / 2, W / 2], or the same size without `down`."""
        inner = self.conv1(x_BCHW if self.first else F.relu(x_BCHW))
        inner = self.conv2(F.relu(inner))
        if self.down:
            # Pooling commutes with the 1x1 shortcut, which is cheaper at the lower resolution.
            inner, x_BCHW = F.avg_pool2d(inner, 2), F.avg_pool2d(x_BCHW, 2)
        out: Tensor = inner + self.shortcut(x_BCHW)
        return out


class ResidualGenerator(nn.Module):
    """z and h to an image: linear to 4x4, blocks that double the resolution, batch norm, ReLU, 3x3 to pixels, tanh.

    With a hierarchical plan z is cut into a part for the start and one a block, and each norm is driven by [h, part]
    (BigGAN, arXiv 1809.11096); otherwise each norm is driven by h and the whole z starts (arXiv 1802.05637).
    """

    def __init__(
        self,
        z_dim: int,
        embed_dim: int,
        width: int,
        channels: int,
        plan: Plan,
        *,
        spectral: bool,
        gains: bool = True,
    ) -> None:
        super().__init__()
        self.channels, self.image_size, self.attention_at = channels, plan.image_size, plan.attention
        widths = [width * factor for factor in plan.generator]
        num_parts = len(widths) if plan.hierarchical else 1
        assert z_dim >= num_parts, "every block needs a part of z"
        self.parts = [len(part) for part in torch.arange(z_dim).tensor_split(num_parts)]
        extra = [*self.parts[1:], *[0] * (len(widths) - num_parts)]
        self.start = SNLinear(self.parts[0], widths[0] * 16, spectral=spectral)
        self.blocks = nn.ModuleList(
            GrowBlock(a, b, embed_dim + more, spectral, gains)
            for (a, b), more in zip(itertools.pairwise(widths), extra, strict=True)
        )
        if plan.attention is not None:
            place = plan.attention.bit_length() - 3  # blocks done at this resolution
            self.attention = SelfAttention(widths[place], spectral)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.to_pixels = SNConv2d(widths[-1], channels, 3, spectral=spectral)

    def forward(self, z_BZ: Tensor, h_BE: Tensor) -> Tensor:
        """z [B, Z] and h [B, E] to float32 images [B, C, H, W] in [-1, 1]."""
        first, *rest = torch.split(z_BZ, self.parts, dim=1)
        x_BCHW = self.start(first).unflatten(1, (-1, 4, 4)).contiguous(memory_format=torch.channels_last)
        for number, block in enumerate(self.blocks):
            x_BCHW = block(x_BCHW, torch.cat([h_BE, rest[number]], dim=1) if rest else h_BE)
            if x_BCHW.shape[-1] == self.attention_at:
                x_BCHW = self.attention(x_BCHW)
        x_BCHW = self.to_pixels(F.relu(self.norm(x_BCHW)))
        return torch.tanh(x_BCHW.float())


class ResidualDiscriminator(ProjectionDiscriminator):
    """Image and h to a score: residual blocks, then the head; with a flat plan it reads every unit of the last map."""

    def __init__(self, embed_dim: int, width: int, channels: int, plan: Plan) -> None:
        super().__init__()
        widths = [channels, *(width * factor for factor in plan.discriminator)]
        layers: list[nn.Module] = []
        size = plan.image_size
        for number, (a, b) in enumerate(itertools.pairwise(widths)):
            down = number < plan.down_blocks
            layers.append(ShrinkBlock(a, b, wide=plan.wide, down=down, first=number == 0))
            size = size // 2 if down else size
            if down and size == plan.attention:
                layers.append(SelfAttention(b))
        self.blocks = nn.Sequential(*layers)
        self.build_head(embed_dim, widths[-1], size if plan.flat else None)
