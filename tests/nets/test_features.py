"""The extractors of M1: the published ResNet-34, and what both show."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cgankd.nets.features import Extractor, FeatureNet, ResNetFeatures
from tests.nets.predictors.test_zoo import PUBLISHED, size


@pytest.mark.parametrize(("pixels", "classes"), [(32, 100), (64, 200)])
def test_the_trunk_has_the_published_size(pixels: int, classes: int) -> None:
    width = 3 * pixels**2
    with torch.device("meta"):
        net = ResNetFeatures(3, pixels, width, classes)
    assert size(net.trunk) == PUBLISHED["resnet34"] - (512 * 100 + 100), "without the classifier of 100 outputs"
    assert size(net.to_features) == 512 * width + width
    assert size(net) - size(net.trunk) - size(net.to_features) == 2 * width + width * classes + classes
    assert size(net) == sum(p.numel() for p in net.parameters() if p.requires_grad)


def test_its_features_are_a_linear_map_of_the_averaged_last_map() -> None:
    torch.manual_seed(0)
    net = ResNetFeatures(3, 16, 24, 5).eval().requires_grad_(False)
    x_BCHW = 2 * torch.rand(4, 3, 16, 16) - 1
    features_BF, out_BO, recon = net(x_BCHW)
    assert recon is None and features_BF.shape == (4, 24) and out_BO.shape == (4, 5)
    _, top_BFHW = net.trunk.walk(x_BCHW)  # type: ignore[operator]
    expected = top_BFHW.mean((2, 3)) @ net.to_features.weight.T + net.to_features.bias
    torch.testing.assert_close(features_BF, expected)
    assert bool((features_BF < 0).any()), "no ReLU before the features"
    assert isinstance(net.head, nn.Sequential)
    torch.testing.assert_close(out_BO, net.head[2](net.head[0](expected).relu()))


@pytest.mark.parametrize("net", [ResNetFeatures(1, 16, 24, 3), FeatureNet(1, 16, 8, 24, 3, decode=True)])
def test_features_and_outputs_are_float32_under_bfloat16(net: Extractor) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        features_BF, out_BO, _ = net.eval()(torch.rand(4, 1, 16, 16), False)
    assert features_BF.dtype == out_BO.dtype == torch.float32 and features_BF.shape == (4, net.feature_width)
