"""MobileNetV2 (Sandler et al., arXiv 1801.04381): at half width for small images, as in the KD literature, and others."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from cgankd.nets.predictors.staged import LINEAR, End, Staged, conv_norm, start_weights

STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""Expansion, channels at full width, blocks."""
LAST = 1280


@dataclass(frozen=True)
class Kind:
    """What differs between the MobileNetV2 of the literature."""

    factor: float = 0.5
    """Channels of each block as a share of those at full width."""
    stem_stride: int = 2
    strides: tuple[int, ...] = (1, 1, 2, 2, 1, 2, 1)
    expand_by_one: bool = True
    """A 1x1 expansion by one in the first block too."""
    project: bool = False
    """A 1x1 convolution as shortcut where channels change without a stride."""
    limited: bool = False
    """ReLU6 instead of ReLU."""

    def active(self) -> nn.Module:
        """A fresh activation."""
        return nn.ReLU6() if self.limited else nn.ReLU()


HALF = Kind()
"""ReLU instead of ReLU6, and an expansion by one in the first block, as Tian et al. (arXiv 1910.10699) have it."""


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, 3x3 within each channel, 1x1 down without a ReLU; a shortcut where it fits."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int, kind: Kind) -> None:
        super().__init__()
        inner = c_in * expansion
        self.adds = stride == 1 and c_in == c_out
        expand = [*conv_norm(c_in, inner, 1), kind.active()] if expansion > 1 or kind.expand_by_one else []
        self.conv = nn.Sequential(
            *expand,
            *conv_norm(inner, inner, 3, stride, groups=inner),
            kind.active(),
            *conv_norm(inner, c_out, 1),
        )
        projects = kind.project and stride == 1 and not self.adds
        self.shortcut = conv_norm(c_in, c_out, 1) if projects else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.conv(x_BCHW)
        if self.shortcut is not None:
            out = out + self.shortcut(x_BCHW)
        return x_BCHW + out if self.adds else out


class MobileNetV2(Staged):
    """A 3x3 stem, seven groups of inverted residuals, a 1x1 convolution to 1280 channels; 812,836 numbers at 100 classes.

    A stage is all that runs at one resolution; it ends in a linear bottleneck.
    """

    def __init__(
        self, num_outputs: int, channels: int, image_size: int, *, kind: Kind = HALF, end: End = LINEAR
    ) -> None:
        super().__init__()
        self.strides = kind.strides
        c_in = int(32 * kind.factor)
        self.conv1 = nn.Sequential(*conv_norm(channels, c_in, 3, kind.stem_stride), kind.active())
        self.blocks = nn.ModuleList()
        for (expansion, width, count), stride in zip(STAGES, kind.strides, strict=True):
            layers, c_out = [], int(width * kind.factor)
            for number in range(count):
                layers.append(InvertedResidual(c_in, c_out, stride if number == 0 else 1, expansion, kind))
                c_in = c_out
            self.blocks.append(nn.Sequential(*layers))
        self.conv2 = nn.Sequential(*conv_norm(c_in, LAST, 1), kind.active())
        self.end_in(LAST, num_outputs, end)
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """The last linear bottleneck at each resolution, and the map of 1280 channels."""
        preacts: list[Tensor] = []
        x_BCHW = self.conv1(x_BCHW)
        for block, stride in zip(self.blocks, self.strides, strict=True):
            if stride == 2:
                preacts.append(x_BCHW)
            x_BCHW = block(x_BCHW)
        return [*preacts, x_BCHW], self.conv2(x_BCHW)
