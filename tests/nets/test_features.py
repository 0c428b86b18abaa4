"""The extractors of M1: the published ResNets, DenseNet and auto-encoders, and what all show."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cgankd.nets.autoencoders import AutoEncoder, FirstAutoEncoder
from cgankd.nets.features import DenseNetFeatures, Extractor, FeatureNet, ResNetFeatures, TeacherFeatures
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.types import Outputs
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


def linear(c_in: int, c_out: int) -> int:
    return c_in * c_out + c_out


@pytest.mark.parametrize(("name", "last"), [("resnet18", 512), ("resnet34", 512), ("resnet50", 2048)])
def test_the_published_head_of_the_resnets_has_two_hidden_layers(name: str, last: int) -> None:
    width, classes = 3 * 32**2, 100
    with torch.device("meta"):
        net = ResNetFeatures(3, 32, width, classes, name, published=True)
    head = 2 * width + linear(width, 1024) + 2048 + linear(1024, 256) + 512 + linear(256, classes)
    assert size(net.head) == head
    assert size(net.trunk) == PUBLISHED[name] - linear(last, 100)
    assert size(net.to_features) == linear(last, width)
    assert [layer.p for layer in net.head if isinstance(layer, nn.Dropout)] == [0.5] * 3


def test_from_128_pixels_on_the_published_trunk_pools_twice_more() -> None:
    torch.manual_seed(0)
    x_BCHW = torch.randn(2, 1, 128, 128)
    net = ResNetFeatures(1, 128, 24, 5, "resnet18", published=True).eval().requires_grad_(False)
    trunk, seen = net.trunk, []
    for number in (1, 2, 3, 4):
        layer = trunk.get_submodule(f"layer{number}")
        layer.register_forward_hook(lambda module, args, out: seen.append(out.shape[-1]))
    found = net.features(x_BCHW)
    assert seen == [128, 32, 8, 4]
    pool = nn.functional.max_pool2d
    inner = trunk.bn1(trunk.conv1(x_BCHW)).relu()
    inner = pool(trunk.layer2(pool(trunk.layer1(inner), 2)), 2)
    expected = net.to_features(trunk.layer4(trunk.layer3(inner)).mean((2, 3)))
    torch.testing.assert_close(found, expected)
    assert not ResNetFeatures(1, 32, 24, 5, "resnet18", published=True).pools
    assert not ResNetFeatures(1, 128, 24, 5, "resnet18").pools


def test_densenet_features_are_normed_and_rectified() -> None:
    width = 3 * 32**2
    with torch.device("meta"):
        net = DenseNetFeatures(3, 32, width, 10)
    assert size(net.trunk) == PUBLISHED["densenet121"] - linear(1024, 100)
    assert size(net) - size(net.trunk) == linear(1024, width) + 2 * width + linear(width, 10)
    torch.manual_seed(0)
    small = DenseNetFeatures(1, 16, 24, 3)
    x_BCHW = torch.randn(6, 1, 16, 16)
    expected = small.to_features(small.trunk(x_BCHW))
    normed = (expected - expected.mean(0)) / (expected.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(small.features(x_BCHW), normed.relu(), rtol=1e-3, atol=1e-3)


def test_the_published_auto_encoder_has_its_size() -> None:
    """64 px, ch = 64, 12,288 features: four halvings of a 4x4 and a 3x3 convolution, and back."""
    f, flat = 3 * 64**2, 256 * 16

    def block(c_in: int, c_out: int, kernel: int) -> int:
        return c_in * c_out * kernel**2 + c_out + 2 * c_out

    encoder = block(3, 64, 4) + block(64, 64, 3) + block(64, 64, 4) + block(64, 128, 3)
    encoder += block(128, 128, 4) + block(128, 256, 3) + block(256, 256, 4) + block(256, 256, 3)
    decoder = block(256, 256, 4) + block(256, 128, 3) + block(128, 128, 4) + block(128, 64, 3)
    decoder += 2 * (block(64, 64, 4) + block(64, 64, 3)) + 64 * 3 + 3
    head = linear(f, 1024) + 2048 + linear(1024, 512) + 1024 + linear(512, 256) + 512 + linear(256, 1)
    with torch.device("meta"):
        net = AutoEncoder(3, 64, 64, f, 1)
    assert size(net.encoder) == encoder and size(net.to_features) == linear(flat, f)
    assert size(net.decoder) == decoder and size(net.from_features) == linear(f, flat) + 2 * flat
    assert size(net.head) == head and isinstance(net.head[-1], nn.ReLU)
    assert not isinstance(AutoEncoder(1, 16, 8, 32, 3).head[-1], nn.ReLU)


def test_the_first_auto_encoder_has_its_size() -> None:
    """64 px, ch = 64: 3 -> 64 -> 128 -> 256 -> 512 -> 768 channels at 4x4, which are the 12,288 features themselves."""
    f, c = 3 * 64**2, 64

    def block(c_in: int, c_out: int, kernel: int) -> int:
        return c_in * c_out * kernel**2 + c_out + 2 * c_out

    encoder = block(3, c, 4) + block(c, c, 3) + block(c, 2 * c, 4) + block(2 * c, 2 * c, 3) + block(2 * c, 4 * c, 4)
    encoder += block(4 * c, 4 * c, 3) + block(4 * c, 8 * c, 4) + 9 * 8 * c * 12 * c + 12 * c
    decoder = block(12 * c, 8 * c, 4) + block(8 * c, 8 * c, 3) + block(8 * c, 4 * c, 4) + block(4 * c, 4 * c, 3)
    decoder += block(4 * c, 2 * c, 4) + block(2 * c, 2 * c, 3) + block(2 * c, c, 4) + 9 * c * 3 + 3
    head = linear(f, 2048) + 4096 + linear(2048, 1024) + 2048 + linear(1024, 512) + 1024
    head += linear(512, 128) + 256 + linear(128, 1)
    with torch.device("meta"):
        net = FirstAutoEncoder(3, 64, c, f, 1)
    assert (size(net.encoder), size(net.decoder), size(net.head)) == (encoder, decoder, head)
    assert net.feature_width == f and net.top == (768, 4, 4)


@pytest.mark.parametrize("kind", [AutoEncoder, FirstAutoEncoder])
@pytest.mark.parametrize("pixels", [16, 32, 64])
def test_auto_encoders_give_rectified_features_and_pixels(kind: type, pixels: int) -> None:
    torch.manual_seed(0)
    net = kind(1, pixels, 8, 64, 1)
    x_BCHW = 2 * torch.rand(4, 1, pixels, pixels) - 1
    features, out, recon = net(x_BCHW)
    assert features.shape == (4, net.feature_width) == (4, 64) and float(features.detach().min()) == 0
    assert recon.shape == x_BCHW.shape and float(recon.detach().abs().max()) <= 1
    assert out.shape == (4, 1) and float(out.detach().min()) >= 0
    (out.sum() + recon.sum()).backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    "net",
    [
        ResNetFeatures(1, 16, 24, 3),
        ResNetFeatures(1, 16, 24, 3, "resnet18", published=True),
        DenseNetFeatures(1, 16, 24, 3),
        AutoEncoder(1, 16, 8, 24, 3),
        FirstAutoEncoder(1, 16, 8, 32, 3),
        FeatureNet(1, 16, 8, 24, 3, decode=True),
    ],
)
def test_features_and_outputs_are_float32_under_bfloat16(net: Extractor) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        features_BF, out_BO, _ = net.eval()(torch.rand(4, 1, 16, 16), False)
    assert features_BF.dtype == out_BO.dtype == torch.float32 and features_BF.shape == (4, net.feature_width)


def test_a_teacher_as_extractor_is_its_penultimate_layer() -> None:
    """Features and outputs are those of the net on pixels in [0, 1]; nothing of it moves, in training mode neither."""
    torch.manual_seed(2)
    net = make_predictor("plain-vgg", NetShape(5, 1, 16), width=4, mean=(0.3,), std=(0.2,))
    extractor = TeacherFeatures(net, NetShape(5, 1, 16)).train()
    unit = torch.rand(9, 1, 16, 16)
    features, out, nothing = extractor(2 * unit - 1)
    shown = net.eval().outputs(unit)
    assert torch.allclose(features, shown.pooled, atol=1e-5) and torch.allclose(out, shown.pred, atol=1e-5)
    assert nothing is None and extractor.feature_width == 16 and not extractor.teacher.training
    assert not [p for p in extractor.parameters() if p.requires_grad]

    class Closed(torch.nn.Module):
        def outputs(self, x: torch.Tensor) -> Outputs:
            return Outputs(x.flatten(1))

    with pytest.raises(ValueError, match="does not show the input of its last layer"):
        TeacherFeatures(Closed(), NetShape(256, 1, 16))
