"""Residual nets (He et al., arXiv 1512.03385) for small images: 6n+2 layers in three stages, and the ImageNet ones.

Without another `Stem` all have a 3x3 stem of stride 1 and no max pooling. `resnet8x4` and `resnet32x4` are those of the
KD literature (Tian et al., arXiv 1910.10699): stem of 32 channels, stages of 64, 128 and 256.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.predictors.staged import LINEAR, SMALL, End, Staged, Stem, conv_norm, pool_after, start_weights


class Residual(nn.Module, ABC):
    """What both kinds of block share: the sum of a branch and a shortcut, which `preact` gives before its ReLU."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = width * self.expansion
        self.downsample = conv_norm(c_in, c_out, 1, stride) if stride != 1 or c_in != c_out else None

    @abstractmethod
    def branch(self, x_BCHW: Tensor) -> Tensor:
        """The convolutions of the block."""

    def preact(self, x_BCHW: Tensor) -> Tensor:
        """Branch plus shortcut, [B, C', H / stride, W / stride]."""
        return self.branch(x_BCHW) + (x_BCHW if self.downsample is None else self.downsample(x_BCHW))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """ReLU of `preact`."""
        return F.relu(self.preact(x_BCHW))


class BasicBlock(Residual):
    """Two 3x3 convolutions."""

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__(c_in, width, stride)
        self.conv1 = nn.Conv2d(c_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def branch(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_BCHW)))))
        return out


class Bottleneck(Residual):
    """1x1 down, 3x3 with the stride, 1x1 up to four times the width."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__(c_in, width, stride)
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)

    def branch(self, x_BCHW: Tensor) -> Tensor:
        inner = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_BCHW))))))
        out: Tensor = self.bn3(self.conv3(inner))
        return out


@dataclass(frozen=True)
class ResNetPlan:
    """The stages of a residual net: blocks of each, channels of the stem and of each; a bottleneck has four times as many."""

    block: type[BasicBlock] | type[Bottleneck]
    counts: tuple[int, ...]
    widths: tuple[int, ...]
    stem: Stem = SMALL
    first_stride: int = 1
    """Stride of the first stage; all others halve the resolution."""


IMAGENET_WIDTHS = (64, 64, 128, 256, 512)
PLANS = {
    **{
        f"resnet{depth}": ResNetPlan(BasicBlock, (depth // 6,) * 3, (16, 16, 32, 64))
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    "resnet8x4": ResNetPlan(BasicBlock, (1, 1, 1), (32, 64, 128, 256)),
    "resnet32x4": ResNetPlan(BasicBlock, (5, 5, 5), (32, 64, 128, 256)),
    "resnet18": ResNetPlan(BasicBlock, (2, 2, 2, 2), IMAGENET_WIDTHS),
    "resnet34": ResNetPlan(BasicBlock, (3, 4, 6, 3), IMAGENET_WIDTHS),
    "resnet50": ResNetPlan(Bottleneck, (3, 4, 6, 3), IMAGENET_WIDTHS),
}
"""Residual nets by name."""


class ResNet(Staged):
    """Stem, then the stages of a plan."""

    def __init__(
        self, num_outputs: int, channels: int, image_size: int, *, plan: ResNetPlan, end: End = LINEAR
    ) -> None:
        super().__init__()
        block, counts, widths = plan.block, plan.counts, plan.widths
        self.stem = stem = plan.stem
        padding = (stem.kernel - 1) // 2
        self.conv1 = nn.Conv2d(channels, widths[0], stem.kernel, stem.stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        c_in = widths[0]
        for number, (count, width) in enumerate(zip(counts, widths[1:], strict=True), 1):
            strides = [2 if number > 1 else plan.first_stride] + [1] * (count - 1)
            inputs = [c_in] + [width * block.expansion] * count
            layers = [block(c, width, stride) for c, stride in zip(inputs, strides, strict=False)]
            c_in = inputs[-1]
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self.num_stages = len(counts)
        self.end_in(c_in, num_outputs, end)
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Preacts of the last block of each stage, and the last stage after its ReLU."""
        preacts = []
        x_BCHW = pool_after(self.stem, F.relu(self.bn1(self.conv1(x_BCHW))))
        for number in range(1, self.num_stages + 1):
            *blocks, last = self.get_submodule(f"layer{number}").children()
            for block in blocks:
                x_BCHW = block(x_BCHW)
            assert isinstance(last, Residual)
            preacts.append(last.preact(x_BCHW))
            x_BCHW = F.relu(preacts[-1])
        return preacts, x_BCHW
