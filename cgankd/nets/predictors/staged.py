"""What the predictors of the literature share: stages of falling resolution, an average over places, an end of linear layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.types import Outputs


@dataclass(frozen=True)
class Stem:
    """The first convolution, and whether a 3x3 max pool of stride 2 follows it."""

    kernel: int = 3
    stride: int = 1
    pool: bool = False


SMALL = Stem()
"""A 3x3 convolution at full resolution, for images of 32 px."""


@dataclass(frozen=True)
class End:
    """What follows the features [B, F] of the last map: dropout, hidden layers with ReLU, the last linear layer."""

    hidden: tuple[int, ...] = ()
    norm: bool = True
    """Batch norm after each hidden layer."""
    positive: bool = False
    """A ReLU after the last layer where there is one output, a label that is not negative."""
    dropout: float = 0.0
    """Share of features dropped before the first hidden layer."""
    hidden_dropout: float = 0.0
    """Share dropped after each hidden layer."""


LINEAR = End()


class PositiveLinear(nn.Linear):
    """A linear layer with a ReLU after it."""

    def forward(self, x_BF: Tensor) -> Tensor:
        """[B, F] to [B, O], not negative."""
        return F.relu(super().forward(x_BF))


class Staged(nn.Module, ABC):
    """A net of stages with `head`, the last linear layer, on the mean of its last map over places.

    A sub-class gives `walk` and calls `end_in`. Its preacts are what stands before the last ReLU of each stage. Where a
    stage ends in a linear map (MobileNetV2, EfficientNet) that map is the preact, and the stage is its ReLU. With hidden
    layers `pooled` is the last of them, so that pred = head(pooled) holds for every net.
    """

    head: nn.Linear

    def __init__(self) -> None:
        super().__init__()
        self.neck: nn.Module | None = None

    @abstractmethod
    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Normalised images to the preacts, one [B, C, H, W] a stage, and the map [B, F, H, W] that is averaged."""

    def end_in(self, features: int, num_outputs: int, end: End = LINEAR) -> None:
        """Make the layers from [B, features] to [B, num_outputs]."""
        layers: list[nn.Module] = [nn.Dropout(end.dropout)] if end.dropout else []
        for width in end.hidden:
            layers += [nn.Linear(features, width), *([nn.BatchNorm1d(width)] if end.norm else []), nn.ReLU()]
            layers += [nn.Dropout(end.hidden_dropout)] if end.hidden_dropout else []
            features = width
        if layers:
            self.neck = nn.Sequential(*layers)
        kind = PositiveLinear if end.positive and num_outputs == 1 else nn.Linear
        self.head = kind(features, num_outputs)

    def features(self, top_BFHW: Tensor) -> Tensor:
        """The last map as [B, F]: its mean over places."""
        return top_BFHW.mean((2, 3))

    def pool(self, top_BFHW: Tensor) -> Tensor:
        """The last map to what `head` takes."""
        features_BF = self.features(top_BFHW)
        return features_BF if self.neck is None else self.neck(features_BF)

    def outputs(self, x_BCHW: Tensor) -> Outputs:
        """Normalised images to outputs with features, from fine to coarse; `pooled` is what the last layer takes."""
        preacts, top_BFHW = self.walk(x_BCHW)
        pooled_BF = self.pool(top_BFHW)
        stages = tuple(map_BCHW.relu() for map_BCHW in preacts)
        return Outputs(self.head(pooled_BF), pooled_BF, stages, tuple(preacts), self.head)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalised images to outputs [B, O]."""
        out_BO: Tensor = self.head(self.pool(self.walk(x_BCHW)[1]))
        return out_BO


def conv_norm(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias whose maps are 1 / stride as high, then batch norm."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


def pool_after(stem: Stem, x_BCHW: Tensor) -> Tensor:
    """The max pool that belongs to a stem, if any."""
    return F.max_pool2d(x_BCHW, 3, 2, 1) if stem.pool else x_BCHW


def start_weights(net: nn.Module) -> None:
    """He's normal initialisation by fan-out of every convolution (arXiv 1502.01852); the rest stays as torch has it."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
