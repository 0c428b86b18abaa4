"""The network whose penultimate layer is the feature space of M1: a classifier or a sparse auto-encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.predictors.resnet import ResNet
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_body
from cgankd.types import Outputs


class FeatureScale(nn.Module):
    """Standardise features by the mean and sd of the training images, then clamp to +-limit sds.

    Without it the ratio network separates a few dozen real images from any fake by the size of single units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, feature_width: int, limit: float = 5.0) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", torch.zeros(feature_width))
        self.register_buffer("std", torch.ones(feature_width))

    @torch.no_grad()
    def fit(self, features_NF: Tensor) -> None:
        """Take mean and sd from the training features [N, F].

        The sd has a floor of a tenth of the average sd: a unit that is silent on the training images would otherwise
        turn the faintest activity on a fake into a full-scale signal.
        """
        std_F = features_NF.std(dim=0, correction=0)
        self.mean.copy_(features_NF.mean(dim=0))
        self.std.copy_(std_F.clamp(min=max(0.1 * float(std_F.mean()), 1e-6)))

    def forward(self, features_BF: Tensor) -> Tensor:
        """Features [B, F] in sds of the training images, within +-limit."""
        return ((features_BF - self.mean) / self.std).clamp(-self.limit, self.limit)


class ResidualDown(nn.Module):
    """Two 3x3 convolutions with a shortcut; halves height and width."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_out)
        self.short = nn.Conv2d(num_in, num_out, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x_BCHW)))))
        return F.relu(y_BCHW + self.short(F.avg_pool2d(x_BCHW, 2)))


class Extractor(nn.Module, ABC):
    """Pixels -> feature units -> a head that reads the label, and perhaps a decoder: what M1 asks of an extractor."""

    to_features: nn.Linear
    head: nn.Module
    scale: FeatureScale
    decoder: nn.Sequential | None

    @property
    def feature_width(self) -> int:
        """Number of feature units F."""
        return self.to_features.out_features

    @abstractmethod
    def features(self, x_BCHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] to raw features [B, F] in float32."""

    def reconstruct(self, features_BF: Tensor) -> Tensor | None:
        """Pixels in [-1, 1] of the features, or None where there is no decoder."""
        return None

    def forward(self, x_BCHW: Tensor, decode: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pixels in [-1, 1] to raw features [B, F], outputs [B, O] and the reconstruction in [-1, 1] (or None).

        Only training and its report ask to `decode`. The head runs in float32 whatever the autocast: a bfloat16 label is
        off by 1/256 of the label range.
        """
        features_BF = self.features(x_BCHW)
        recon_BCHW = self.reconstruct(features_BF) if decode else None
        with torch.autocast(x_BCHW.device.type, enabled=False):
            out_BO = self.head(features_BF)
        return features_BF, out_BO, recon_BCHW


class FeatureNet(Extractor):
    """Residual encoder -> Linear -> ReLU features -> linear head; optional decoder (extractors of arXiv 2103.11166).

    One network for both kinds of label: with `decode` and an L1 term it is the sparse auto-encoder with a label head,
    without them a classifier whose penultimate layer is a linear map. Every stage runs at half resolution or less.
    """

    def __init__(
        self, channels: int, image_size: int, width: int, feature_width: int, num_outputs: int, decode: bool
    ) -> None:
        super().__init__()
        assert image_size >= 16 and image_size & (image_size - 1) == 0, "a power of two from 16"
        num_halvings = image_size.bit_length() - 3
        widths = [width * min(2**i, 4) for i in range(num_halvings)]
        self.top = (widths[-1], 4, 4)
        flat = widths[-1] * 16
        stem = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        blocks = [ResidualDown(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        self.encoder = nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU(), *blocks)
        self.to_features = nn.Linear(flat, feature_width)
        self.head = nn.Linear(feature_width, num_outputs)
        self.scale = FeatureScale(feature_width)
        self.from_features = nn.Linear(feature_width, flat) if decode else None
        self.decoder = nn.Sequential(*decoder_layers(widths[::-1], channels)) if decode else None

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] to raw features [B, F] >= 0."""
        return F.relu(self.to_features(self.encoder(x_BCHW).flatten(1))).float()

    def reconstruct(self, features_BF: Tensor) -> Tensor | None:
        """Pixels in [-1, 1]; tanh runs in float32 whatever the autocast."""
        if self.from_features is None or self.decoder is None:
            return None
        top_BCHW = F.relu(self.from_features(features_BF)).reshape(-1, *self.top)
        return torch.tanh(self.decoder(top_BCHW).float())


class ResNetFeatures(Extractor):
    """The published extractor of class labels: a ResNet -> a linear map to the features -> batch norm, ReLU, linear head.

    The features are what stands before that norm, so of both signs. The `published` head has two hidden layers more, each
    with a dropout of one half, and the published trunk pools twice more from 128 px on.
    """

    decoder = None

    def __init__(
        self,
        channels: int,
        image_size: int,
        feature_width: int,
        num_outputs: int,
        name: str = "resnet34",
        published: bool = False,
    ) -> None:
        super().__init__()
        self.trunk, inputs = headless(name, NetShape(num_outputs, channels, image_size))
        self.pools = published and image_size >= 128
        self.to_features = nn.Linear(inputs, feature_width)
        layers: list[nn.Module] = [nn.BatchNorm1d(feature_width), nn.ReLU()]
        if published:
            for c_in, c_out in ((feature_width, 1024), (1024, 256)):
                layers += [nn.Dropout(0.5), nn.Linear(c_in, c_out), nn.BatchNorm1d(c_out), nn.ReLU()]
            layers += [nn.Dropout(0.5), nn.Linear(256, num_outputs)]
        else:
            layers.append(nn.Linear(feature_width, num_outputs))
        self.head = nn.Sequential(*layers)
        self.scale = FeatureScale(feature_width)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] to raw features [B, F] of both signs."""
        pooled_BC = self.pooled(x_BCHW) if self.pools else self.trunk(x_BCHW)
        features_BF: Tensor = self.to_features(pooled_BC).float()
        return features_BF

    def pooled(self, x_BCHW: Tensor) -> Tensor:
        """The mean of the last map where the first two stages are each followed by a 2x2 max pooling."""
        trunk = self.trunk
        assert isinstance(trunk, ResNet)
        x_BCHW = F.relu(trunk.bn1(trunk.conv1(x_BCHW)))
        for number in range(1, trunk.num_stages + 1):
            x_BCHW = trunk.get_submodule(f"layer{number}")(x_BCHW)
            if number <= 2:
                x_BCHW = F.max_pool2d(x_BCHW, 2)
        return x_BCHW.mean((2, 3))


class DenseNetFeatures(Extractor):
    """That of cGAN-KD's first version: a DenseNet -> a linear map, batch norm and ReLU to the features -> linear head."""

    decoder = None

    def __init__(
        self, channels: int, image_size: int, feature_width: int, num_outputs: int, name: str = "densenet121"
    ) -> None:
        super().__init__()
        self.trunk, inputs = headless(name, NetShape(num_outputs, channels, image_size))
        self.to_features = nn.Linear(inputs, feature_width)
        self.feature_norm = nn.BatchNorm1d(feature_width)
        self.head = nn.Linear(feature_width, num_outputs)
        self.scale = FeatureScale(feature_width)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] to raw features [B, F] >= 0."""
        return F.relu(self.feature_norm(self.to_features(self.trunk(x_BCHW)))).float()


class TeacherFeatures(Extractor):
    """A teacher as it is: the features are what its last layer takes, the head's outputs its own. Nothing of it is trained.

    The teacher gets pixels in [0, 1] and normalises them itself. Raises ValueError where it does not show its last layer.
    """

    decoder = None

    def __init__(self, teacher: nn.Module, shape: NetShape) -> None:
        super().__init__()
        self.teacher = teacher
        with torch.no_grad():
            image = torch.full((1, shape.channels, shape.image_size, shape.image_size), 0.5)
            pooled_BF = teacher.eval().outputs(image).pooled  # type: ignore[operator]
        if pooled_BF is None:
            raise ValueError("the teacher does not show the input of its last layer, so it has no features")
        self.width = int(pooled_BF.shape[1])
        self.scale = FeatureScale(self.width)
        self.requires_grad_(False)

    @property
    def feature_width(self) -> int:
        """Number of feature units F."""
        return self.width

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] to raw features [B, F] in float32."""
        return self.seen(x_BCHW)[0]

    def seen(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels in [-1, 1] to raw features [B, F] and outputs [B, O] in float32."""
        out: Outputs = self.teacher.outputs((x_BCHW + 1) / 2)  # type: ignore[operator]
        assert out.pooled is not None, "looked at before"
        return out.pooled.float(), out.pred.float()

    def forward(self, x_BCHW: Tensor, decode: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pixels in [-1, 1] to raw features [B, F] and outputs [B, O]; there is nothing to decode with."""
        return *self.seen(x_BCHW), None

    def train(self, mode: bool = True) -> TeacherFeatures:
        """Stay in eval mode: it is never trained."""
        return super().train(False)


def headless(name: str, shape: NetShape) -> tuple[nn.Module, int]:
    """A net of the zoo that gives its last map averaged over places, and that one's channels."""
    trunk = make_body(name, shape, width=None)
    last = trunk.head
    assert isinstance(last, nn.Linear)
    trunk.head = nn.Identity()
    return trunk, last.in_features


def decoder_layers(widths: list[int], channels: int) -> list[nn.Module]:
    """Layers from a 4x4 map back to pixels, doubling at each width; the last time by a cheap pixel shuffle."""
    layers: list[nn.Module] = []
    for num_in, num_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(num_out), nn.ReLU()]
    return [*layers, nn.Conv2d(widths[-1], 4 * channels, 3, padding=1), nn.PixelShuffle(2)]
