"""A small fixed net for the heads on features, and a training that is guided by it."""

from __future__ import annotations

import torch
from torch import nn

from cgankd.gan.guides import Given
from cgankd.nets.gans.features import FixedFeatures
from cgankd.rng import generator


def toy_features(*names: str) -> FixedFeatures:
    """Two stages, 8x8 and 4x4, for images resized to 16 px."""
    torch.manual_seed(11)
    stages = [
        nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Tanh()),
        nn.Sequential(nn.Conv2d(6, 10, 3, stride=2, padding=1), nn.Tanh()),
    ]
    return FixedFeatures(stages, 0.4, 0.3, 16, generator("mixing", *names))


def toy_given() -> Given:
    return Given(features=toy_features())


FEATURES = {"features": "package:efficientnet-lite0"}
"""What the config must say for a net to be given; the toy is in its place."""
