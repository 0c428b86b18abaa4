"""DenseNet (Huang et al., arXiv 1608.06993) with the stem for small images that cGAN-KD's teachers have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.predictors.staged import Staged, start_weights


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

    The last ReLU of a stage is that of the transition after it, or of the last batch norm.
    """

    def __init__(
        self, num_outputs: int, channels: int, image_size: int, *, growth: int, counts: tuple[int, ...]
    ) -> None:
        super().__init__()
        c = 2 * growth
        self.stem = nn.Conv2d(channels, c, 3, 1, 1, bias=False)
        self.stages, self.norms, self.shrink = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for number, count in enumerate(counts):
            self.stages.append(nn.Sequential(*(DenseLayer(c + i * growth, growth) for i in range(count))))
            c += count * growth
            self.norms.append(nn.BatchNorm2d(c))
            if number < len(counts) - 1:
                self.shrink.append(nn.Conv2d(c, c // 2, 1, bias=False))
                c //= 2
        self.head = nn.Linear(c, num_outputs)
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Normed maps at the end of each stage, and the last one after its ReLU."""
        preacts: list[Tensor] = []
        x_BCHW = self.stem(x_BCHW)
        for number, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            preacts.append(norm(stage(x_BCHW)))
            x_BCHW = F.relu(preacts[-1])
            if number < len(self.shrink):
                x_BCHW = F.avg_pool2d(self.shrink[number](x_BCHW), 2)
        return preacts, x_BCHW
