"""Nets of torchvision and timm behind one adapter."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
from collections import OrderedDict
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from cgankd.nets.predictors.external import make_external, take_weights
from cgankd.nets.predictors.shape import NetShape
from cgankd.types import Outputs
from tests.conftest import ROOT


def shown(name: str, image_size: int = 64, channels: int = 3) -> tuple[nn.Module, Tensor, Outputs]:
    torch.manual_seed(0)
    net = make_external(name, NetShape(5, channels, image_size)).eval()
    x = torch.rand(2, channels, image_size, image_size)
    return net, x, net.outputs(x)


@pytest.mark.parametrize(
    ("name", "channels", "heights"),
    [
        ("torchvision:resnet18", 1, [32, 16, 8, 4, 2]),
        ("torchvision:mobilenet_v2", 3, [32, 16, 8, 4, 2]),
        ("torchvision:regnet_y_400mf", 3, [32, 16, 8, 4, 2]),
        ("timm:resnet10t", 1, [32, 16, 8, 4, 2]),
        ("timm:convnext_atto", 3, [16, 8, 4, 2]),
    ],
)
@torch.no_grad()
def test_outputs_of_nets_of_libraries(name: str, channels: int, heights: list[int]) -> None:
    net, x, out = shown(name, channels=channels)
    torch.testing.assert_close(out.pred, net(x), rtol=0, atol=0)
    assert out.head is not None and out.pooled is not None
    torch.testing.assert_close(out.head(out.pooled), out.pred, rtol=0, atol=0)
    assert [stage.shape[2] for stage in out.stages] == heights
    for after, before in zip(out.stages, out.preacts, strict=True):
        torch.testing.assert_close(after, before.relu(), rtol=0, atol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules()), "no hook is left behind"


@torch.no_grad()
def test_stages_of_a_resnet_are_its_layers() -> None:
    net, x, out = shown("torchvision:resnet18")
    inner = net.get_submodule("net")
    maps = inner.relu(inner.bn1(inner.conv1(x)))  # type: ignore[operator]
    expected = [maps]
    maps = inner.maxpool(maps)  # type: ignore[operator]
    for number in range(1, 5):
        maps = inner.get_submodule(f"layer{number}")(maps)
        expected.append(maps)
    for stage, reference in zip(out.stages, expected, strict=True):
        torch.testing.assert_close(stage, reference, rtol=0, atol=0)
    assert all((before < 0).any() for before in out.preacts), "before the ReLU that makes the stage"


@torch.no_grad()
def test_a_map_with_channels_last_is_turned() -> None:
    _, _, out = shown("torchvision:swin_t")
    assert [tuple(stage.shape[1:]) for stage in out.stages] == [(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)]


@torch.no_grad()
def test_a_net_without_a_linear_head_shows_none() -> None:
    _, _, out = shown("torchvision:squeezenet1_1")
    assert out.head is None and out.pooled is None and out.pred.shape == (2, 5) and len(out.stages) >= 3


def test_a_ramp_through_a_timm_net_trains_it() -> None:
    net, x, _ = shown("timm:resnet10t", channels=1)
    net.train()
    net.outputs(x).pred.square().mean().backward()  # type: ignore[operator]
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "image_size", "words"),
    [
        ("torchvision:resnet19", 64, "torchvision has no classifier 'resnet19'; did you mean 'resnet18'?"),
        ("timm:resnet10x", 64, "timm has no net 'resnet10x'; did you mean"),
        ("torchvision:vit_b_32", 16, "net torchvision:vit_b_32 cannot be built for images of 16 px"),
        ("torchvision:inception_v3", 64, "net torchvision:inception_v3 cannot take images of 64 px"),
    ],
)
def test_what_cannot_be_is_said(name: str, image_size: int, words: str) -> None:
    with pytest.raises(ValueError) as error:
        make_external(name, NetShape(2, 3, image_size))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_timm_missing_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm:resnet10t needs the package timm; run pip install 'cgankd\[timm\]'"):
        make_external("timm:resnet10t", NetShape(2, 3, 32))


def test_nothing_is_downloaded_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise LookupError("a download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(timm.models._builder, "load_pretrained", refuse)
    for name in ("torchvision:shufflenet_v2_x0_5", "timm:resnet10t"):
        make_external(name, NetShape(2, 3, 32))
        with pytest.raises(LookupError, match="a download"):
            make_external(name, NetShape(2, 3, 32), pretrained=True)


def test_trained_weights_are_taken_but_for_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    source = torchvision.models.shufflenet_v2_x0_5(num_classes=1000)
    weights = OrderedDict(source.state_dict())
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *args, **kwargs: weights)
    net = make_external("torchvision:shufflenet_v2_x0_5", NetShape(2, 1, 32), pretrained=True)
    state = net.net.state_dict()
    assert state["fc.weight"].shape == (2, 1024)
    torch.testing.assert_close(state["conv1.0.weight"], weights["conv1.0.weight"].sum(1, keepdim=True))
    others = [key for key in state if key not in ("conv1.0.weight", "fc.weight", "fc.bias")]
    assert all(torch.equal(state[key], weights[key]) for key in others)
    grey = torch.rand(2, 1, 32, 32)
    stem = source.eval().conv1(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(net.eval().net.conv1(grey), stem)  # type: ignore[operator]


def test_trained_weights_that_do_not_fit_are_refused() -> None:
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=2)
    other = dict(net.state_dict()) | {"stage2.0.branch1.0.weight": torch.zeros(24, 1, 5, 5)}
    with pytest.raises(
        ValueError, match=r"trained weights of that do not fit this image size \(first in stage2.0.branch"
    ):
        take_weights(net, other, "conv1.0.weight", "that")


def test_a_download_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"could not be downloaded .*no route.*; check .* or set teacher.pretrained"):
        make_external("torchvision:shufflenet_v2_x0_5", NetShape(2, 3, 32), pretrained=True)


def test_torchvision_is_loaded_for_its_own_nets_alone() -> None:
    """It costs every start of a stage two seconds."""
    code = (
        "import sys, pipelines.runtime.opening, pipelines.stages.student, pipelines.stages.prepare\n"
        "from cgankd.nets.predictors.zoo import make_of_zoo; from cgankd.nets.predictors.shape import NetShape\n"
        "print('torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
