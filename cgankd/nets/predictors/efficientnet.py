"""EfficientNet-B0 (Tan and Le, arXiv 1905.11946) with a stem of stride 1 for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.predictors.staged import Staged, conv_norm, start_weights

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

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int, kernel: int) -> None:
        super().__init__()
        inner = c_in * expansion
        self.adds = stride == 1 and c_in == c_out
        expand = [*conv_norm(c_in, inner, 1), nn.SiLU()] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            *conv_norm(inner, inner, kernel, stride, groups=inner),
            nn.SiLU(),
            Gate(inner, max(1, c_in // 4)),
            *conv_norm(inner, c_out, 1),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.layers(x_BCHW)
        return x_BCHW + out if self.adds else out


class EfficientNetB0(Staged):
    """The stem, seven groups of gated residuals and a 1x1 convolution to 1280 channels; 4,135,648 numbers at 100 classes.

    Without dropout and stochastic depth. A stage is all that runs at one resolution; it ends in a linear bottleneck.
    """

    def __init__(self, num_outputs: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(channels, 32, 3), nn.SiLU())
        self.blocks = nn.ModuleList()
        c_in = 32
        for expansion, width, count, stride, kernel in STAGES:
            layers = []
            for number in range(count):
                layers.append(GatedResidual(c_in, width, stride if number == 0 else 1, expansion, kernel))
                c_in = width
            self.blocks.append(nn.Sequential(*layers))
        self.last = nn.Sequential(*conv_norm(c_in, LAST, 1), nn.SiLU())
        self.head = nn.Linear(LAST, num_outputs)
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """The last linear bottleneck at each resolution, and the map of 1280 channels."""
        preacts: list[Tensor] = []
        x_BCHW = self.stem(x_BCHW)
        for block, (_, _, _, stride, _) in zip(self.blocks, STAGES, strict=True):
            if stride == 2:
                preacts.append(x_BCHW)
            x_BCHW = block(x_BCHW)
        return [*preacts, x_BCHW], self.last(x_BCHW)
