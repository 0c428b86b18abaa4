"""What the predictors of the KD literature share: stages of falling resolution, an average over places, a linear head."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from cgankd.types import Outputs


class Staged(nn.Module, ABC):
    """A net of stages with `head`, the last linear layer, on the mean of its last map over places.

    A sub-class gives `walk`. Its preacts are what stands before the last ReLU of each stage. Where a stage ends in a
    linear map (MobileNetV2, EfficientNet) that map is the preact, and the stage is its ReLU.
    """

    head: nn.Linear

    @abstractmethod
    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Normalised images to the preacts, one [B, C, H, W] a stage, and the map [B, F, H, W] that is averaged."""

    def outputs(self, x_BCHW: Tensor) -> Outputs:
        """Normalised images to outputs with features, from fine to coarse; `pooled` is the mean of the last map."""
        preacts, top_BFHW = self.walk(x_BCHW)
        pooled_BF = top_BFHW.mean((2, 3))
        stages = tuple(map_BCHW.relu() for map_BCHW in preacts)
        return Outputs(self.head(pooled_BF), pooled_BF, stages, tuple(preacts), self.head)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalised images to outputs [B, O]."""
        out_BO: Tensor = self.head(self.walk(x_BCHW)[1].mean((2, 3)))
        return out_BO


def conv_norm(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias that keeps the size at stride 1, then batch norm."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


def start_weights(net: nn.Module) -> None:
    """He's normal initialisation by fan-out of every convolution (arXiv 1502.01852); the rest stays as torch has it."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
