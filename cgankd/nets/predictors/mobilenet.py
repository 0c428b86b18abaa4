"""MobileNetV2 at half width (Sandler et al., arXiv 1801.04381) for small images, as in the KD literature."""

from __future__ import annotations

from torch import Tensor, nn

from cgankd.nets.predictors.staged import Staged, conv_norm, start_weights

STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels at full width, blocks, stride of the first one; 24 channels without a stride, for small images."""
LAST = 1280


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, 3x3 within each channel, 1x1 down without a ReLU; a shortcut where it fits."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = c_in * expansion
        self.adds = stride == 1 and c_in == c_out
        self.conv = nn.Sequential(
            *conv_norm(c_in, inner, 1),
            nn.ReLU(),
            *conv_norm(inner, inner, 3, stride, groups=inner),
            nn.ReLU(),
            *conv_norm(inner, c_out, 1),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.conv(x_BCHW)
        return x_BCHW + out if self.adds else out


class MobileNetV2(Staged):
    """A strided stem, seven groups of inverted residuals, a 1x1 convolution to 1280 channels.

    ReLU instead of ReLU6, and a 1x1 expansion by one in the first block too, as Tian et al. (arXiv 1910.10699) have it:
    812,836 numbers at 100 classes. A stage is all that runs at one resolution; it ends in a linear bottleneck.
    """

    def __init__(self, num_outputs: int, channels: int, image_size: int, *, factor: float = 0.5) -> None:
        super().__init__()
        c_in = int(32 * factor)
        self.conv1 = nn.Sequential(*conv_norm(channels, c_in, 3, 2), nn.ReLU())
        self.blocks = nn.ModuleList()
        for expansion, width, count, stride in STAGES:
            layers = []
            for number in range(count):
                layers.append(InvertedResidual(c_in, int(width * factor), stride if number == 0 else 1, expansion))
                c_in = int(width * factor)
            self.blocks.append(nn.Sequential(*layers))
        self.conv2 = nn.Sequential(*conv_norm(c_in, LAST, 1), nn.ReLU())
        self.head = nn.Linear(LAST, num_outputs)
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """The last linear bottleneck at each resolution, and the map of 1280 channels."""
        preacts: list[Tensor] = []
        x_BCHW = self.conv1(x_BCHW)
        for block, (_, _, _, stride) in zip(self.blocks, STAGES, strict=True):
            if stride == 2:
                preacts.append(x_BCHW)
            x_BCHW = block(x_BCHW)
        return [*preacts, x_BCHW], self.conv2(x_BCHW)
