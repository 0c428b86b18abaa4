"""The sparse auto-encoders of scalar labels as published (arXiv 2103.11166), and as in the first version of cGAN-KD."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.features import DenseNetFeatures, Extractor, FeatureNet, FeatureScale, ResNetFeatures

TOP = 4
"""Height and width of the map between encoder and decoder."""


def conv_block(c_in: int, c_out: int) -> list[nn.Module]:
    """A 3x3 convolution that keeps the size, batch norm, ReLU."""
    return [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]


def down_block(c_in: int, c_out: int) -> list[nn.Module]:
    """A 4x4 convolution that halves the size, batch norm, ReLU."""
    return [nn.Conv2d(c_in, c_out, 4, stride=2, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]


def up_block(c_in: int, c_out: int) -> list[nn.Module]:
    """A transposed 4x4 convolution that doubles the size, batch norm, ReLU."""
    return [nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]


def label_head(widths: tuple[int, ...], num_outputs: int) -> nn.Sequential:
    """Linear layers with batch norm and ReLU from the features to the outputs; a single output, a scalar, ends in a ReLU."""
    layers: list[nn.Module] = []
    for c_in, c_out in itertools.pairwise(widths):
        layers += [nn.Linear(c_in, c_out), nn.BatchNorm1d(c_out), nn.ReLU()]
    layers.append(nn.Linear(widths[-1], num_outputs))
    return nn.Sequential(*layers, *([nn.ReLU()] if num_outputs == 1 else []))


class AutoEncoder(Extractor):
    """Convolutions down to 4x4, a linear map and a ReLU to the features; back the same way, and a label head of four layers.

    At 64 px the channels are those published: ch, 2 ch, 4 ch and 4 ch after the four halvings.
    """

    decoder: nn.Sequential

    def __init__(self, channels: int, image_size: int, width: int, feature_width: int, num_outputs: int) -> None:
        super().__init__()
        halvings = (image_size // TOP).bit_length() - 1
        widths = [width * min(2**number, 4) for number in range(halvings)]
        layers = [*down_block(channels, width), *conv_block(width, width)]
        for c_in, c_out in itertools.pairwise(widths):
            layers += [*down_block(c_in, c_in), *conv_block(c_in, c_out)]
        self.encoder = nn.Sequential(*layers)
        self.top = (widths[-1], TOP, TOP)
        flat = widths[-1] * TOP**2
        self.to_features = nn.Linear(flat, feature_width)
        self.from_features = nn.Sequential(nn.Linear(feature_width, flat), nn.BatchNorm1d(flat), nn.ReLU())
        layers, c = [], widths[-1]
        for _ in range(halvings):
            after = max(width, c // 2)
            layers += [*up_block(c, c), *conv_block(c, after)]
            c = after
        self.decoder = nn.Sequential(*layers, nn.Conv2d(c, channels, 1))
        self.head = label_head((feature_width, 1024, 512, 256), num_outputs)
        self.scale = FeatureScale(feature_width)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] to raw features [B, F] >= 0."""
        return F.relu(self.to_features(self.encoder(x_BCHW).flatten(1))).float()

    def reconstruct(self, features_BF: Tensor) -> Tensor:
        """Pixels in [-1, 1]; tanh runs in float32 whatever the autocast."""
        top_BCHW = self.from_features(features_BF).reshape(-1, *self.top)
        return torch.tanh(self.decoder(top_BCHW).float())


class FirstAutoEncoder(Extractor):
    """That of the first version: the features are the last 4x4 map itself, after its ReLU; a label head of five layers.

    At 64 px and 12,288 features the map has 12 ch channels.
    """

    decoder: nn.Sequential

    def __init__(self, channels: int, image_size: int, width: int, feature_width: int, num_outputs: int) -> None:
        super().__init__()
        halvings = (image_size // TOP).bit_length() - 1
        widths = [width * 2**number for number in range(halvings)]
        top = feature_width // TOP**2
        self.top, self.width = (top, TOP, TOP), top * TOP**2
        layers: list[nn.Module] = []
        for c_in, c_out in itertools.pairwise([channels, *widths]):
            layers += [*down_block(c_in, c_out), *conv_block(c_out, c_out)]
        self.encoder = nn.Sequential(*layers[:-3], nn.Conv2d(widths[-1], top, 3, padding=1))
        layers = []
        for number, (c_in, c_out) in enumerate(itertools.pairwise([top, *reversed(widths)]), 1):
            layers += up_block(c_in, c_out)
            layers += conv_block(c_out, c_out) if number < halvings else []
        self.decoder = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))
        self.head = label_head((self.width, 2048, 1024, 512, 128), num_outputs)
        self.scale = FeatureScale(self.width)

    @property
    def feature_width(self) -> int:
        """Units of the map."""
        return self.width

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] to raw features [B, F] >= 0."""
        return F.relu(self.encoder(x_BCHW)).flatten(1).float()

    def reconstruct(self, features_BF: Tensor) -> Tensor:
        """Pixels in [-1, 1]; tanh runs in float32 whatever the autocast."""
        return torch.tanh(self.decoder(features_BF.reshape(-1, *self.top)).float())


def make_extractor(ratio: Mapping[str, Any], channels: int, image_size: int, num_outputs: int) -> Extractor:
    """A fresh feature extractor of M1 by `ratio.extractor`, any but the teacher; older settings do not name it."""
    width = ratio["feature_width"] or channels * image_size**2
    name = ratio.get("extractor", "compact")
    plain = (channels, image_size, width, num_outputs)
    if name.startswith("resnet"):
        return ResNetFeatures(*plain, name, ratio.get("extractor_style") == "published")
    if name.startswith("densenet"):
        return DenseNetFeatures(*plain, name)
    sizes = (channels, image_size, int(ratio["feature_channels"]), width, num_outputs)
    if name != "compact":
        return FirstAutoEncoder(*sizes) if name == "autoencoder-v1" else AutoEncoder(*sizes)
    return FeatureNet(*sizes, decode=ratio["reconstruct_weight"] > 0)
