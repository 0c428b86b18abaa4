"""Nets of the paper's experiments: numbers and operations by arithmetic, outputs by torchvision's nets, hooks, formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.config.nets import ZOOS
from cgankd.export import (
    ShippedModel,
    open_onnx,
    open_torch_export,
    program,
    worst_difference,
    write_onnx,
    write_torch_export,
)
from cgankd.labels.answers import make_answer
from cgankd.nets.predictors.paper import OWN
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.staged import PositiveLinear
from cgankd.nets.predictors.zoo import FIXED, make_body, make_predictor
from cgankd.types import DatasetInfo
from tests.nets.predictors import layers
from tests.nets.predictors.layers import Count, measured

OUTPUTS = {"cifar100": 100, "imagenet100": 100, "cifar10": 10, "tiny-imagenet": 200}
"""Classes; all other experiments have one number."""
SLOW = ("densenet161", "densenet169", "densenet201")
"""Built for one experiment alone; the others differ from DenseNet-121 in their stem, which it shows."""
EVERY = [
    (zoo, net)
    for zoo, own in OWN.items()
    for net in own
    if zoo not in ("steering-angle", "utkface-v1") and (zoo == "utkface" or net not in SLOW)
]
HALVED, QUARTERED, STRIDED = (4, 2, False), (4, 2, True), (3, 1, False)
POOLS = (2, 2, 2, 2, 2)


def body(zoo: str, net: str) -> nn.Module:
    return make_body(f"{zoo}:{net}", NetShape(OUTPUTS.get(zoo, 1), 3, ZOOS[zoo].image_size), width=None)


def trunk(zoo: str, net: str, count: Count) -> int:
    """Count a net up to its end; returns its features. Layers: github.com/UBCDingXin/cGAN-KD, by experiment."""
    family = next(name for name in ("resnet", "wrn", "vgg", "densenet", "mobile", "shufflenetv", "eff") if name in net)
    later = {"imagenet100": QUARTERED, "utkface": HALVED}
    if family == "resnet":
        return layers.resnet(
            net, count, QUARTERED if zoo == "imagenet100" else STRIDED, 1 if zoo == "imagenet100" else 2
        )
    if family == "wrn":
        return layers.wrn(net, count, later[zoo])
    if family == "vgg":
        return layers.vgg(net, count, (2, 2, 2, 1, 4) if zoo == "imagenet100" else POOLS)
    if family == "densenet":
        return layers.densenet(net, count, later.get(zoo), zoo not in later)
    if family == "mobile":
        halving = (1, 2, 2, 2, 1, 2, 1)
        return {
            "imagenet100": lambda: layers.mobilenetv2(count, 2, halving, 0.5, False, False),
            "utkface": lambda: layers.mobilenetv2(count, 2, halving, 1, True, False),
            "rc49": lambda: layers.mobilenetv2(count, 2, halving, 1, True, False),
            "tiny-imagenet": lambda: layers.mobilenetv2(count, 1, halving, 1, False, True),
            "cifar10": lambda: layers.mobilenetv2(count, 1, (1, 1, 2, 2, 1, 2, 1), 1, False, True),
        }[zoo]()
    if net == "shufflenetv1":
        return layers.shufflenetv1(count, later[zoo])
    if net == "shufflenetv2":
        first = {"cifar10": STRIDED, "tiny-imagenet": (3, 1, True), "rc49": (3, 2, True)}
        return layers.shufflenetv2(count, (later | first)[zoo])
    return layers.efficientnet(count, 2 if zoo == "rc49" else 1, last=zoo == "rc49")


@pytest.mark.parametrize(("zoo", "net"), EVERY)
def test_numbers_and_operations_by_arithmetic(zoo: str, net: str) -> None:
    count = Count(ZOOS[zoo].image_size)
    features = trunk(zoo, net, count)
    hidden = {"utkface": 512, "rc49": 128}.get(zoo)
    plain_vgg = zoo == "imagenet100" and "vgg" in net
    want = count.end(features, OUTPUTS.get(zoo, 1), 1024 if plain_vgg else hidden, norm=not plain_vgg)
    with torch.device("meta"):
        assert measured(body(zoo, net), ZOOS[zoo].image_size) == want


@pytest.mark.parametrize(
    ("zoo", "net", "numbers", "macs"),
    [
        # Millions, of the authors' own modules: what differed from this project's nets before these were there.
        ("rc49", "shufflenetv2", 1.40, 11.9),
        ("utkface", "resnet20", 0.571, 42.7),
        ("utkface", "mobilenetv2", 3.14, 25.4),
        ("cifar10", "mobilenetv2", 2.30, 91.2),
        ("cifar100", "efficientnet-b0", 3.63, 30.4),
    ],
)
def test_counts_of_the_authors(zoo: str, net: str, numbers: float, macs: float) -> None:
    with torch.device("meta"):
        found = measured(body(zoo, net), ZOOS[zoo].image_size)
    assert (found[0] / 1e6, found[1] / 1e6) == pytest.approx((numbers, macs), rel=5e-3)


def test_larger_images_cost_a_fraction_of_what_nets_for_32_px_take() -> None:
    with torch.device("meta"):
        for zoo, factor in (("utkface", 3.8), ("imagenet100", 14)):
            size, outputs = ZOOS[zoo].image_size, OUTPUTS.get(zoo, 1)
            plain = make_body("resnet20", NetShape(outputs, 3, size), width=None)
            assert measured(plain, size)[1] / measured(body(zoo, "resnet20"), size)[1] == pytest.approx(factor, rel=0.1)


def test_zoos_name_what_can_be_built() -> None:
    assert set(OWN) == set(ZOOS)
    for zoo, own in OWN.items():
        assert set(own) <= set(ZOOS[zoo].nets) <= set(own) | set(FIXED)
        assert len(set(ZOOS[zoo].nets)) == len(ZOOS[zoo].nets)
    with torch.device("meta"):
        assert type(body("cifar10", "resnet18")) is type(make_body("resnet18", NetShape(10, 3, 32), width=None))


def copied(ours: nn.Module, theirs: nn.Module) -> None:
    """Give our trunk the weights of a net whose layers stand in the same order; the ends stay."""
    own = {k: v for k, v in ours.state_dict().items() if not k.startswith(("neck", "head"))}
    given = [v for k, v in theirs.state_dict().items() if not k.startswith(("fc", "classifier"))]
    assert [v.shape for v in own.values()] == [v.shape for v in given]
    ours.load_state_dict(dict(zip(own, given, strict=True)), strict=False)


def stirred(net: nn.Module) -> nn.Module:
    """A net as after training: its batch norms have statistics of their own."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return net.eval()


def mean_of(net: nn.Module, layers: str) -> Callable[[Tensor], Tensor]:
    """The mean over places of torchvision's last map."""
    return lambda x: net.get_submodule(layers)(x).mean((2, 3))


@torch.no_grad()
def test_mobilenet_is_torchvisions_at_64_px() -> None:
    torch.manual_seed(0)
    theirs = stirred(torchvision.models.mobilenet_v2())
    ours, x = body("utkface", "mobilenetv2").eval(), torch.randn(2, 3, 64, 64)
    copied(ours, theirs)
    _, top = ours.walk(x)  # type: ignore[operator]
    torch.testing.assert_close(top, theirs.features(x), rtol=1e-3, atol=1e-4)  # type: ignore[operator]


@torch.no_grad()
def test_shufflenet_of_the_first_version_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = stirred(torchvision.models.shufflenet_v2_x1_0())
    ours, x = body("rc49", "shufflenetv2").eval(), torch.randn(2, 3, 64, 64)
    found = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc")}
    state: dict[str, Tensor] = {}
    parts = {"branch1.0": "pass_depthwise.0", "branch1.1": "pass_depthwise.1", "branch1.2": "pass_expand.0"}
    parts |= {"branch1.3": "pass_expand.1", "branch2.0": "reduce.0", "branch2.1": "reduce.1"}
    parts |= {"branch2.3": "depthwise.0", "branch2.4": "depthwise.1", "branch2.5": "expand.0", "branch2.6": "expand.1"}
    for key, value in found.items():
        top, _, rest = key.partition(".")
        if top.startswith("stage"):
            unit, branch, number, leaf = rest.split(".")
            state[f"stages.{int(top[-1]) - 2}.{unit}.{parts[f'{branch}.{number}']}.{leaf}"] = value
        else:
            state[f"{'stem' if top == 'conv1' else 'last'}.{rest}"] = value
    assert {k for k in ours.state_dict() if not k.startswith(("neck", "head"))} == set(state)
    ours.load_state_dict(state, strict=False)
    _, got = ours.walk(x)  # type: ignore[operator]
    want = theirs.conv5(theirs.stage4(theirs.stage3(theirs.stage2(theirs.maxpool(theirs.conv1(x))))))  # type: ignore[operator]
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("zoo", ["imagenet100", "utkface"])
@torch.no_grad()
def test_resnet18_is_torchvisions_with_another_stem(zoo: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18()
    if zoo == "imagenet100":
        theirs.conv1 = nn.Conv2d(3, 64, 4, 2, 1, bias=False)
    else:
        theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        first = theirs.layer1[0]
        first.conv1.stride = (2, 2)
        first.downsample = nn.Sequential(nn.Conv2d(64, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
    stirred(theirs)
    ours, x = body(zoo, "resnet18").eval(), torch.randn(2, 3, ZOOS[zoo].image_size, ZOOS[zoo].image_size)
    missing, extra = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert all(key.startswith(("neck", "head")) for key in missing) and set(extra) == {"fc.weight", "fc.bias"}
    theirs.fc = nn.Identity()
    torch.testing.assert_close(ours.walk(x)[1].mean((2, 3)), theirs(x), rtol=1e-3, atol=1e-4)  # type: ignore[operator]


@torch.no_grad()
def test_tensorflows_padding_leaves_out_the_first_row() -> None:
    """A 3x3 kernel of stride 2 on a map of even height: places 0, 2, 4 ... are its first ones, not its middle ones."""
    ours = body("rc49", "efficientnet-b0").eval()
    conv = ours.get_submodule("stem.1")
    assert isinstance(conv, nn.Conv2d)
    x = torch.randn(1, 3, 64, 64)
    want = F.conv2d(F.pad(x, (0, 1, 0, 1)), conv.weight, stride=2)
    torch.testing.assert_close(ours.get_submodule("stem")[:2](x), want)  # type: ignore[index]
    inner = next(
        m for m in ours.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (5, 5) and m.stride == (2, 2)
    )
    pads = [m.padding for m in ours.modules() if isinstance(m, nn.ZeroPad2d)]
    assert inner.padding == (0, 0) and pads == [(0, 1, 0, 1), (0, 1, 0, 1), (1, 2, 1, 2), (0, 1, 0, 1), (1, 2, 1, 2)]
    norms = {(m.eps, m.momentum) for m in ours.modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms == {(1e-3, 0.01)}


def test_stochastic_depth_drops_images_and_keeps_the_mean() -> None:
    from cgankd.nets.predictors.efficientnet import GatedResidual

    torch.manual_seed(0)
    block = GatedResidual(8, 8, 1, 6, 3, same=False, drop=0.25).train()
    x = torch.zeros(4000, 8, 2, 2)
    nn.init.ones_(block.layers[-1].bias)  # type: ignore[arg-type]
    nn.init.zeros_(block.layers[-1].weight)  # type: ignore[arg-type]
    added = block(x)[:, 0, 0, 0]
    assert sorted(set(added.tolist())) == pytest.approx([0.0, 1 / 0.75])
    assert float((added == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert bool((block.eval()(x) == 1).all())
    drops = [m.drop for m in body("rc49", "efficientnet-b0").modules() if isinstance(m, GatedResidual)]
    assert drops == pytest.approx([0.2 * number / 16 for number in range(16)])


SHOWN = [
    *(
        ("utkface", net)
        for net in ("resnet20", "resnet8x4", "resnet18", "wrn16-1", "vgg8", "densenet121", "mobilenetv2")
    ),
    *(("utkface", net) for net in ("shufflenetv1", "shufflenetv2", "efficientnet-b0")),
    *(("rc49", net) for net in ("resnet18", "vgg11", "densenet121", "mobilenetv2", "shufflenetv2", "efficientnet-b0")),
    *(("tiny-imagenet", net) for net in ("vgg11", "densenet121", "mobilenetv2", "shufflenetv2", "efficientnet-b0")),
    *(("cifar10", net) for net in ("vgg11", "mobilenetv2", "shufflenetv2", "efficientnet-b0")),
    *(("imagenet100", net) for net in ("resnet20", "resnet50", "wrn16-1", "vgg8", "mobilenetv2", "shufflenetv1")),
    ("imagenet100", "densenet121"),
]


@pytest.mark.parametrize(("zoo", "net"), SHOWN)
@torch.no_grad()
def test_outputs_are_those_of_the_forward_pass(zoo: str, net: str) -> None:
    torch.manual_seed(1)
    made, size = body(zoo, net).eval(), ZOOS[zoo].image_size
    x = torch.randn(2, 3, size, size)
    out = made.outputs(x)  # type: ignore[operator]
    torch.testing.assert_close(out.pred, made(x), rtol=0, atol=0)
    assert [m for m in made.modules() if isinstance(m, nn.Linear)][-1] is out.head
    torch.testing.assert_close(out.head(out.pooled), out.pred)
    assert len(out.stages) == len(out.preacts) >= 3
    for after, before in zip(out.stages, out.preacts, strict=True):
        torch.testing.assert_close(after, before.relu(), rtol=0, atol=0)
        assert (before < 0).any() and (before > 0).any()
    heights = [stage.shape[2] for stage in out.stages]
    assert heights == sorted(heights, reverse=True) and heights[-1] > 1
    if zoo in OUTPUTS:
        assert type(out.head) is nn.Linear and out.pred.shape == (2, OUTPUTS[zoo])
    else:
        assert isinstance(out.head, PositiveLinear) and out.pooled.shape == (2, 128 if zoo == "rc49" else 512)
        assert bool((out.pooled >= 0).all()) and bool((out.pred >= 0).all())


def test_the_end_of_scalars_by_hand() -> None:
    """Linear, batch norm, ReLU, twice; linear, ReLU."""
    torch.manual_seed(0)
    made = stirred(body("rc49", "vgg11"))
    features = torch.randn(5, 2048)
    state = {k: v for k, v in made.state_dict().items() if k.startswith(("neck", "head"))}
    x = features
    for number in (0, 3):
        x = x @ state[f"neck.{number}.weight"].T + state[f"neck.{number}.bias"]
        mean, var = state[f"neck.{number + 1}.running_mean"], state[f"neck.{number + 1}.running_var"]
        x = (x - mean) / (var + 1e-5).sqrt() * state[f"neck.{number + 1}.weight"] + state[f"neck.{number + 1}.bias"]
        x = x.clamp(min=0)
    want = (x @ state["head.weight"].T + state["head.bias"]).clamp(min=0)
    neck, head = made.get_submodule("neck"), made.get_submodule("head")
    torch.testing.assert_close(head(neck(features)), want)
    assert state["neck.0.weight"].shape == (128, 2048) and state["head.weight"].shape == (1, 128)


def test_an_answer_of_two_numbers_may_be_negative() -> None:
    """Sine and cosine of an angle: no ReLU at the end."""
    made = make_body("utkface:resnet8", NetShape(2, 3, 64), width=None)
    assert type(made.get_submodule("head")) is nn.Linear


@pytest.mark.parametrize(
    ("zoo", "net", "dropped"),
    [
        ("rc49", "mobilenetv2", [0.2]),
        ("utkface", "mobilenetv2", []),
        ("utkface", "efficientnet-b0", [0.2]),
        ("cifar100", "efficientnet-b0", [0.2]),
        ("imagenet100", "vgg8", [0.5, 0.5]),
        ("tiny-imagenet", "vgg11", []),
    ],
)
def test_dropout_of_the_authors(zoo: str, net: str, dropped: list[float]) -> None:
    with torch.device("meta"):
        assert [m.p for m in body(zoo, net).modules() if isinstance(m, nn.Dropout)] == dropped


@pytest.mark.parametrize(
    ("zoo", "net"), [("utkface", "shufflenetv1"), ("rc49", "efficientnet-b0"), ("utkface", "wrn16-1")]
)
def test_a_step_moves_every_number(zoo: str, net: str) -> None:
    torch.manual_seed(0)
    made, size = body(zoo, net), ZOOS[zoo].image_size
    nn.init.constant_(made.get_submodule("head").bias, 0.5)  # type: ignore[arg-type]  # so that the ReLU lets it pass
    made(torch.randn(4, 3, size, size)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("utkface:resnet21", NetShape(1, 3, 64), "the nets of utkface are .* not 'resnet21'; did you mean 'resnet"),
        ("rc49:resnet20", NetShape(1, 3, 64), "the nets of rc49 are resnet18, .* not 'resnet20'"),
        ("utkface:resnet20", NetShape(1, 3, 32), "utkface:resnet20 is for images of 64 px, not 32; take resnet20"),
    ],
)
def test_what_cannot_be_built(name: str, shape: NetShape, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_body(name, shape, width=None)


FORMATS = ["rc49:efficientnet-b0", "utkface:mobilenetv2", "utkface:wrn16-1", "utkface:vgg8", "imagenet100:resnet8"]


@pytest.mark.parametrize("name", FORMATS)
def test_shipped_formats_agree(name: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    zoo = ZOOS[name.partition(":")[0]]
    names = ("ant", "bee", "cat") if zoo.task == "class" else ()
    info = DatasetInfo(zoo.task, "made", "", 3, zoo.image_size, (0.5,) * 3, (0.25,) * 3, names, 0.0, 90.0)
    answer = make_answer(info)
    net = make_predictor(
        name, NetShape(answer.num_answers, 3, zoo.image_size), width=None, mean=info.pixel_mean, std=info.pixel_std
    )
    coarse = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    x = F.interpolate(255 * coarse, size=zoo.image_size).to(torch.uint8)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = 1.0
    with torch.no_grad():  # statistics of these images, so that the answers differ
        net.train()(x / 255)
    if not names:
        nn.init.constant_(net.body.get_submodule("head").bias, 0.5)  # type: ignore[arg-type]  # inside of the range
    shipped = ShippedModel(net, answer).eval().requires_grad_(False)
    want, graph = shipped.run(x), program(shipped, x[:2])
    # Of nets this deep float32 alone is 4e-4 of the spread away from float64.
    spread = float(want.std(dim=0).max())
    assert spread > 1e-3 * answer.scale
    write_onnx(graph, tmp_path / "m.onnx")
    write_torch_export(graph, tmp_path / "m.pt2")
    for run in (open_onnx(tmp_path / "m.onnx"), open_torch_export(tmp_path / "m.pt2")):
        assert worst_difference(run(x), want) <= 3e-3 * spread
