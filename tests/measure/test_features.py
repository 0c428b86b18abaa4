from __future__ import annotations

import pytest
import torch
from torch import nn

from cgankd.data.pixels import to_unit
from cgankd.measure.features import make_features
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import SCALED, make_predictor


@pytest.mark.parametrize("name", ["convnet", "plain-vgg"])
def test_features_are_the_pooled_input_of_the_last_layer(name: str) -> None:
    torch.manual_seed(0)
    net = make_predictor(name, NetShape(3, 1, 16), width=8, mean=(0.4,), std=(0.2,))
    images = torch.randint(0, 256, (11, 1, 16, 16), dtype=torch.uint8)
    found, outputs = make_features(net, batch_size=4)(images)
    assert net.training, "the mode of the net is put back"
    net.eval()
    with torch.no_grad():
        expected = net(to_unit(images))
        head = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
        assert torch.allclose(outputs, expected, atol=1e-5)
        map_ = net.body.body[:-2]((to_unit(images) - net.mean) / net.std)  # all but flatten and head, or ReLU and head
        if name == "convnet":
            assert map_.shape[2:] == (4, 4) and torch.allclose(found, map_.mean((2, 3)), atol=1e-5)
        else:
            assert torch.allclose(found, map_.relu(), atol=1e-5)
            assert torch.allclose(head(found), expected, atol=1e-5)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules()), "no hook is left behind"


@pytest.mark.parametrize(
    "name", ["resnet8", "ds-cnn", "mobilenetv2", "efficientnet-b0", "torchvision:shufflenet_v2_x0_5"]
)
def test_features_are_pooled_of_the_outputs(name: str) -> None:
    torch.manual_seed(0)
    width = 8 if name in SCALED else None
    net = make_predictor(name, NetShape(3, 1, 32), width=width, mean=(0.4,), std=(0.2,))
    images = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    found, outputs = make_features(net, batch_size=2)(images)
    with torch.no_grad():
        seen = net.eval().outputs(to_unit(images))
    assert seen.pooled is not None
    torch.testing.assert_close(found, seen.pooled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs, seen.pred, rtol=1e-4, atol=1e-5)


def test_a_net_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="no linear layer"):
        make_features(nn.Conv2d(1, 1, 1))
