"""DenseNet (Huang et al., arXiv 1608.06993) with the stems that cGAN-KD's teachers have."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.predictors.staged import LINEAR, End, Staged, Stem, conv_norm, pool_after, start_weights


class DenseSize(NamedTuple):
    """Channels that a layer adds, and layers of each stage."""

    growth: int
    counts: tuple[int, ...]


SIZES = {
    "densenet121": DenseSize(32, (6, 12, 24, 16)),
    "densenet161": DenseSize(48, (6, 12, 36, 24)),
    "densenet169": DenseSize(32, (6, 12, 32, 32)),
    "densenet201": DenseSize(32, (6, 12, 48, 32)),
}
"""DenseNets by name (table 1 of the paper)."""


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1x1 to four growths; batch norm, ReLU, 3x3 to one growth; joined to what came in."""

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C + growth, H, W]."""
        made = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x_BCHW))))))
        return torch.cat([x_BCHW, made], dim=1)


class DenseNet(Staged):
    """A 3x3 stem of two growths, four dense stages; between them a 1x1 convolution to half the channels and a 2x2 mean.

    The last ReLU of a stage is that of the transition after it, or of the last batch norm. A `stem` of one's own, for
    larger images, has batch norm and ReLU; with `extra_pool` a 2x2 max pool follows the first transition.
    """

    def __init__(
        self,
        num_outputs: int,
        channels: int,
        image_size: int,
        *,
        size: DenseSize,
        stem: Stem | None = None,
        extra_pool: bool = False,
        end: End = LINEAR,
    ) -> None:
        super().__init__()
        self.own_stem, self.extra_pool = stem, extra_pool
        growth, counts = size
        c = 2 * growth
        plain = nn.Conv2d(channels, c, 3, 1, 1, bias=False)
        self.stem = plain if stem is None else conv_norm(channels, c, stem.kernel, stem.stride)
        self.stages, self.norms, self.shrink = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for number, count in enumerate(counts):
            self.stages.append(nn.Sequential(*(DenseLayer(c + i * growth, growth) for i in range(count))))
            c += count * growth
            self.norms.append(nn.BatchNorm2d(c))
            if number < len(counts) - 1:
                self.shrink.append(nn.Conv2d(c, c // 2, 1, bias=False))
                c //= 2
        self.end_in(c, num_outputs, end)
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Normed maps at the end of each stage, and the last one after its ReLU."""
        preacts: list[Tensor] = []
        x_BCHW = self.stem(x_BCHW)
        if self.own_stem is not None:
            x_BCHW = pool_after(self.own_stem, F.relu(x_BCHW))
        for number, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            preacts.append(norm(stage(x_BCHW)))
            x_BCHW = F.relu(preacts[-1])
            if number < len(self.shrink):
                x_BCHW = F.avg_pool2d(self.shrink[number](x_BCHW), 2)
                if number == 0 and self.extra_pool:
                    x_BCHW = F.max_pool2d(x_BCHW, 2)
        return preacts, x_BCHW
