"""The projection discriminator: D(x, y) = psi(phi(x)) + <V h(y), phi(x)> (Miyato and Koyama, arXiv 1802.05637)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.gans.projection import Judged
from cgankd.nets.gans.spectral import SNConv2d, SNLinear


class DownBlock(nn.Module):
    """A spectrally normed residual block; with `down` it halves the resolution between its two convolutions.

    The channels grow only in the second one, at the lower resolution, where they are cheap.
    """

    def __init__(self, inputs: int, outputs: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv1 = SNConv2d(inputs, inputs, 3)
        self.conv2 = SNConv2d(inputs, outputs, 3)
        self.shortcut = SNConv2d(inputs, outputs, 1)

    def pool(self, x_BCHW: Tensor) -> Tensor:
        """Average 2x2 where the block goes down."""
        return F.avg_pool2d(x_BCHW, 2) if self.down else x_BCHW

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / 2, W / 2], or the same size without `down`."""
        inner = self.pool(self.conv1(F.relu(x_BCHW)))
        out: Tensor = self.conv2(F.relu(inner)) + self.shortcut(self.pool(x_BCHW))
        return out


class Discriminator(nn.Module):
    """Image and label embedding to a score: a stride-2 stem, residual blocks down to 4x4, a sum over positions.

    The stem goes down at once, since a block at full resolution would cost a third of the step.
    """

    answer: nn.Linear | None

    def __init__(self, embed_dim: int, width: int, channels: int, image_size: int) -> None:
        super().__init__()
        num_down = (image_size // 8).bit_length() - 1
        self.stem = SNConv2d(channels, 2 * width, 4, stride=2)
        widths = [2 * width] + [4 * width] * num_down
        blocks = [DownBlock(a, b, down=True) for a, b in itertools.pairwise(widths)]
        self.blocks = nn.Sequential(*blocks, DownBlock(widths[-1], 8 * width, down=False))
        self.psi = SNLinear(8 * width, 1)
        self.project = SNLinear(embed_dim, 8 * width, bias=False)
        self.register_module("answer", None)

    def forward(self, x_BCHW: Tensor, h_BE: Tensor) -> Judged:
        """Images [B, C, H, W] in [-1, 1] and h [B, E] to scores float32 [B]; the head runs in fp32."""
        phi_BCHW = self.blocks(self.stem(x_BCHW.contiguous(memory_format=torch.channels_last)))
        with torch.autocast(x_BCHW.device.type, enabled=False):
            phi_BF = F.relu(phi_BCHW).float().sum(dim=(2, 3))
            score_B: Tensor = self.psi(phi_BF)[:, 0] + (self.project(h_BE.float()) * phi_BF).sum(dim=1)
            return score_B if self.answer is None else (score_B, self.answer(phi_BF))
