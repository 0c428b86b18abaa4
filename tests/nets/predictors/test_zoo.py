"""Predictors: shapes, normalisation inside, sizes as published, the features they show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import FIXED, NETS, SCALED, Predictor, make_body, make_predictor

PUBLISHED = {
    # CIFAR-100, the model zoo of Tian et al. (arXiv 1910.10699, github.com/HobbitLong/RepDistiller), numbers with a
    # gradient of the nets built there.
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet50": 23_705_252,
    "wrn16-1": 180_916,
    "wrn16-2": 703_284,
    "wrn40-1": 569_780,
    "wrn40-2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "mobilenetv2": 812_836,
    "shufflenetv1": 949_258,
    "shufflenetv2": 1_355_528,
    # torchvision's nets with 100 outputs, less what the stem for small images lacks (derived in the test below).
    "resnet18": 11_220_132,
    "resnet34": 21_328_292,
    "densenet121": 7_048_548,
    "densenet161": 26_681_188,
    "densenet169": 12_643_172,
    "densenet201": 18_277_220,
    "efficientnet-b0": 4_135_648,
}


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def body(name: str, *, num_outputs: int = 100, channels: int = 3, image_size: int = 32) -> nn.Module:
    width = 8 if name in SCALED else None
    return make_body(name, NetShape(num_outputs, channels, image_size), width=width)


def predictor(name: str, *, num_outputs: int = 5, channels: int = 3, image_size: int = 32) -> Predictor:
    torch.manual_seed(0)
    return make_predictor(
        name,
        NetShape(num_outputs, channels, image_size),
        width=8 if name in SCALED else None,
        mean=[0.5] * channels,
        std=[0.2] * channels,
    )


def test_sizes_are_the_published_ones() -> None:
    assert set(PUBLISHED) == set(FIXED)
    with torch.device("meta"):
        assert {name: size(body(name)) for name in FIXED} == PUBLISHED


def basic_resnet(depth: int, stem: int, width: int, classes: int) -> int:
    """Numbers of a residual net of 6n+2 layers in closed form: w, 2w and 4w channels, projections where those change."""
    count, total, c_in = (depth - 2) // 6, 9 * 3 * stem + 2 * stem, stem
    for number, c in enumerate((width, 2 * width, 4 * width)):
        total += 9 * c_in * c + 9 * c * c + 4 * c + (count - 1) * (18 * c * c + 4 * c)
        total += c_in * c + 2 * c if number or c_in != c else 0
        c_in = c
    return total + c_in * classes + classes


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_sizes_of_residual_nets_in_closed_form(depth: int) -> None:
    assert PUBLISHED[f"resnet{depth}"] == basic_resnet(depth, 16, 16, 100)
    if f"resnet{depth}x4" in PUBLISHED:
        assert PUBLISHED[f"resnet{depth}x4"] == basic_resnet(depth, 32, 64, 100)


@pytest.mark.parametrize(
    ("name", "reference", "stem"),
    [
        ("resnet18", "resnet18", 3 * 64 * (49 - 9)),
        ("resnet34", "resnet34", 3 * 64 * (49 - 9)),
        ("resnet50", "resnet50", 3 * 64 * (49 - 9)),
        ("densenet121", "densenet121", 3 * 64 * (49 - 9) + 2 * 64),  # no batch norm after the stem
        ("densenet161", "densenet161", 3 * 96 * (49 - 9) + 2 * 96),
        ("densenet169", "densenet169", 3 * 64 * (49 - 9) + 2 * 64),
        ("densenet201", "densenet201", 3 * 64 * (49 - 9) + 2 * 64),
        ("efficientnet-b0", "efficientnet_b0", 0),
    ],
)
def test_sizes_are_those_of_torchvision_with_a_small_stem(name: str, reference: str, stem: int) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(reference, weights=None, num_classes=100)
        assert size(body(name)) == size(theirs) - stem
        assert size(body(f"torchvision:{reference}", num_outputs=100, image_size=64)) == size(theirs)


def test_resnet18_with_torchvisions_stem_and_weights_gives_its_outputs() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=4).eval()
    ours = body("resnet18", num_outputs=4).eval()
    ours.conv1, pool = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)
    ours.get_submodule("layer1.0").register_forward_pre_hook(lambda module, inputs: pool(inputs[0]))
    ours.load_state_dict({k.replace("fc.", "head."): v for k, v in theirs.state_dict().items()})
    assert size(ours) == size(theirs)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


KINDS = ["convnet", "resnet8", "resnet50", "wrn16-2", "vgg19", "mobilenetv2", "shufflenetv1", "shufflenetv2"]


@pytest.mark.parametrize(("channels", "image_size"), [(1, 64), (3, 128)])
def test_shapes_at_larger_sizes(channels: int, image_size: int) -> None:
    with torch.device("meta"):
        for name in (*KINDS, "densenet121", "efficientnet-b0"):
            net = body(name, num_outputs=1, channels=channels, image_size=image_size)
            out = net.outputs(torch.rand(2, channels, image_size, image_size))  # type: ignore[operator]
            assert out.pred.shape == (2, 1), name
            heights = [stage.shape[2] for stage in out.stages]
            assert heights == sorted(heights, reverse=True) and heights[-1] > 1, name


@pytest.mark.parametrize("name", sorted(SCALED))
@pytest.mark.parametrize(("channels", "image_size"), [(1, 16), (3, 64)])
def test_shapes_of_scaled_nets(name: str, channels: int, image_size: int) -> None:
    net = predictor(name, channels=channels, image_size=image_size)
    assert net(torch.rand(3, channels, image_size, image_size)).shape == (3, 5)


@pytest.mark.parametrize("name", ["resnet8", "wrn16-1", "vgg8", "mobilenetv2", "shufflenetv1", "shufflenetv2"])
@pytest.mark.parametrize(("channels", "image_size"), [(1, 16), (3, 64)])
def test_a_step_at_other_sizes(name: str, channels: int, image_size: int) -> None:
    net = predictor(name, num_outputs=1, channels=channels, image_size=image_size)
    net(torch.rand(2, channels, image_size, image_size)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_normalisation_is_inside() -> None:
    torch.manual_seed(0)
    net = make_predictor("convnet", NetShape(2, 3, 16), width=4, mean=[0.1, 0.2, 0.3], std=[0.5, 1, 2])
    x = torch.rand(2, 3, 16, 16)
    mean, std = torch.tensor([0.1, 0.2, 0.3])[:, None, None], torch.tensor([0.5, 1.0, 2.0])[:, None, None]
    net.eval()
    torch.testing.assert_close(net(x), net.body((x - mean) / std))
    assert {"mean", "std"} <= set(net.state_dict())


@pytest.mark.parametrize(("size", "seen"), [(16, 24), (16, 40), (32, 16), (32, 24)])
def test_a_net_sees_what_pillow_resizes(size: int, seen: int) -> None:
    """Antialiased bicubic interpolation, as Pillow has it for images of floats."""
    torch.manual_seed(0)
    net = make_predictor("resnet8", NetShape(2, 3, size), width=None, mean=[0.5] * 3, std=[0.25] * 3, input_size=seen)
    x = torch.rand(2, 3, size, size)

    def resized(plane: np.ndarray[Any, Any]) -> torch.Tensor:
        image = Image.fromarray(plane).resize((seen, seen), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image))

    wanted = torch.stack([resized(plane.numpy()) for plane in x.flatten(0, 1)]).unflatten(0, (2, 3))
    torch.testing.assert_close(net.seen(x), (wanted - 0.5) / 0.25, rtol=0, atol=1e-5)
    out = net.eval().outputs(x)
    torch.testing.assert_close(net(x), out.pred, rtol=0, atol=0)
    torch.testing.assert_close(out.pred, net.body((wanted - 0.5) / 0.25), rtol=1e-4, atol=1e-4)
    assert out.stages[0].shape[2] == seen


def test_a_scaled_net_is_made_for_the_size_that_it_sees() -> None:
    shape = NetShape(2, 3, 16)
    net = make_predictor("convnet", shape, width=4, mean=[0.5] * 3, std=[0.25] * 3, input_size=32)
    assert size(net.body) == size(make_body("convnet", NetShape(2, 3, 32), width=4))
    assert net(torch.rand(2, 3, 16, 16)).shape == (2, 2)


def test_student_is_far_smaller_than_the_teacher() -> None:
    student, teacher = (
        size(make_body(n, NetShape(1, 3, 32), width=w)) for n, w in (("convnet", 16), ("plain-vgg", 32))
    )
    assert 30_000 < student < 45_000 and teacher > 10 * student


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"'resnet9' is not known; choose one of convnet, .*did you mean 'resnet"):
        make_predictor("resnet9", NetShape(1, 1, 16), width=None, mean=[0], std=[1])


def test_a_scaled_net_needs_its_width() -> None:
    with pytest.raises(ValueError, match="net convnet needs a width"):
        make_body("convnet", NetShape(1, 1, 16), width=None)


def test_config_knows_every_net() -> None:
    from cgankd.config import nets as config_nets

    assert set(config_nets.NETS) == set(NETS)
    assert set(config_nets.SCALED_NETS) == set(SCALED) and set(config_nets.FIXED_NETS) == set(FIXED)


@pytest.mark.parametrize("name", sorted(NETS))
@torch.no_grad()
def test_outputs_are_those_of_the_forward_pass(name: str) -> None:
    net = predictor(name).eval()
    x = torch.rand(2, 3, 32, 32)
    out = net.outputs(x)
    torch.testing.assert_close(out.pred, net(x), rtol=0, atol=0)
    assert out.head is not None and out.pooled is not None
    assert [m for m in net.modules() if isinstance(m, nn.Linear)][-1] is out.head
    torch.testing.assert_close(out.head(out.pooled), out.pred)
    assert len(out.stages) == len(out.preacts) >= 3
    for after, before in zip(out.stages, out.preacts, strict=True):
        torch.testing.assert_close(after, before.relu(), rtol=0, atol=0)
        assert (before < 0).any() and (before > 0).any()
    heights = [stage.shape[2] for stage in out.stages]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize("name", ["resnet8", "wrn16-1", "vgg8", "mobilenetv2", "shufflenetv2", "densenet121"])
def test_statistics_move_once_a_pass(name: str) -> None:
    """A stage's batch norm is called once, though its map is both a feature and an input."""
    net = predictor(name)
    net.outputs(torch.rand(2, 3, 32, 32))
    assert {int(m.num_batches_tracked) for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {1}


@pytest.mark.parametrize("name", ["resnet8x4", "wrn16-2", "vgg8", "shufflenetv1", "shufflenetv2"])
def test_the_last_stage_is_what_the_head_averages(name: str) -> None:
    out = predictor(name).eval().outputs(torch.rand(2, 3, 32, 32))
    if name == "shufflenetv2":  # a 1x1 convolution stands between the two
        assert out.pooled is not None and out.pooled.shape == (2, 1024)
    else:
        torch.testing.assert_close(out.pooled, out.stages[-1].mean((2, 3)))


def test_shuffle_deals_channels_out() -> None:
    from cgankd.nets.predictors.shufflenet import shuffle

    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert shuffle(x, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    torch.testing.assert_close(shuffle(x, 3), nn.ChannelShuffle(3)(x))


def test_efficientnet_gives_torchvisions_outputs_with_its_weights() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.efficientnet_b0(num_classes=4).eval()
    theirs.features[0][0].stride = (1, 1)
    ours = body("efficientnet-b0", num_outputs=4).eval()
    values = list(theirs.state_dict().values())  # the layers stand in the same order
    state = dict(zip(ours.state_dict(), values, strict=True))
    assert all(state[key].shape == value.shape for key, value in ours.state_dict().items())
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-5)


def test_densenet_gives_torchvisions_outputs_with_its_weights() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.densenet121(num_classes=4).eval()
    theirs.features.conv0 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.features.norm0, theirs.features.relu0, theirs.features.pool0 = nn.Identity(), nn.Identity(), nn.Identity()
    ours = body("densenet121", num_outputs=4).eval()
    found = theirs.state_dict()
    state = {}
    for key in ours.state_dict():
        part, _, rest = key.partition(".")
        if part == "stages":
            stage, layer, name, leaf = rest.split(".")
            there = name.replace("bn", "norm")
            state[key] = found[f"features.denseblock{int(stage) + 1}.denselayer{int(layer) + 1}.{there}.{leaf}"]
        elif part == "norms":
            number, leaf = rest.split(".")
            where = "norm5" if number == "3" else f"transition{int(number) + 1}.norm"
            state[key] = found[f"features.{where}.{leaf}"]
        elif part == "shrink":
            number, leaf = rest.split(".")
            state[key] = found[f"features.transition{int(number) + 1}.conv.{leaf}"]
        else:
            state[key] = found[{"stem.weight": "features.conv0.weight"}.get(key, key.replace("head", "classifier"))]
    ours.load_state_dict(state)
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-5)
