"""Predictors by name: a plain dict from the name in params.yaml to a constructor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cgankd.config.nets import from_library
from cgankd.config.settings import nearest
from cgankd.nets.predictors.convnet import ConvNet, PlainVGG
from cgankd.nets.predictors.densenet import DenseNet
from cgankd.nets.predictors.efficientnet import EfficientNetB0
from cgankd.nets.predictors.external import make_external
from cgankd.nets.predictors.mobilenet import MobileNetV2
from cgankd.nets.predictors.resnet import BasicBlock, Bottleneck, ResNet
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.shufflenet import ShuffleNetV1, ShuffleNetV2
from cgankd.nets.predictors.vgg import VGG
from cgankd.nets.predictors.wrn import WideResNet
from cgankd.types import Outputs


class Predictor(nn.Module):
    """A body that normalises its own input: images [B, C, H, W] in [0, 1] to outputs [B, O].

    Mean and sd of the training pixels travel with the weights, so a saved student needs no side file to be used.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, unit_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] to outputs [B, O]."""
        out_BO: Tensor = self.body((unit_BCHW - self.mean) / self.std)
        return out_BO

    def outputs(self, unit_BCHW: Tensor) -> Outputs:
        """Images in [0, 1] to outputs with the features that KD losses compare; `pred` equals `forward`."""
        out: Outputs = self.body.outputs((unit_BCHW - self.mean) / self.std)  # type: ignore[operator]
        return out


RESNET18, RESNET50 = (64, 64, 128, 256, 512), (3, 4, 6, 3)
SCALED: dict[str, Callable[..., nn.Module]] = {"convnet": ConvNet, "plain-vgg": PlainVGG}
"""Constructors from (num_outputs, channels, image_size, width)."""
FIXED: dict[str, Callable[[int, int, int], nn.Module]] = {
    **{
        f"resnet{depth}": partial(ResNet, block=BasicBlock, counts=(depth // 6,) * 3, widths=(16, 16, 32, 64))
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    "resnet8x4": partial(ResNet, block=BasicBlock, counts=(1, 1, 1), widths=(32, 64, 128, 256)),
    "resnet32x4": partial(ResNet, block=BasicBlock, counts=(5, 5, 5), widths=(32, 64, 128, 256)),
    "resnet18": partial(ResNet, block=BasicBlock, counts=(2, 2, 2, 2), widths=RESNET18),
    "resnet34": partial(ResNet, block=BasicBlock, counts=RESNET50, widths=RESNET18),
    "resnet50": partial(ResNet, block=Bottleneck, counts=RESNET50, widths=RESNET18),
    **{
        f"wrn{depth}-{factor}": partial(WideResNet, depth=depth, factor=factor)
        for depth in (16, 40)
        for factor in (1, 2)
    },
    "vgg8": partial(VGG, counts=(1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, counts=(1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, counts=(2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, counts=(2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, counts=(2, 2, 4, 4, 4)),
    "mobilenetv2": MobileNetV2,
    "shufflenetv1": ShuffleNetV1,
    "shufflenetv2": ShuffleNetV2,
    "densenet121": partial(DenseNet, growth=32, counts=(6, 12, 24, 16)),
    "densenet161": partial(DenseNet, growth=48, counts=(6, 12, 36, 24)),
    "efficientnet-b0": EfficientNetB0,
}
"""Constructors from (num_outputs, channels, image_size); their channels are those of the papers."""
NETS = {**SCALED, **FIXED}


def make_body(name: str, shape: NetShape, *, width: int | None, pretrained: bool = False) -> nn.Module:
    """A net for normalised images; weights are drawn from torch's global generator.

    With `pretrained` a net of torchvision or timm starts from the library's weights, which are downloaded.

    Raises ValueError on an unknown name, a width that does not go with it, and a library's net that cannot be built.
    """
    if from_library(name):
        return make_external(name, shape, pretrained=pretrained)
    if name not in NETS:
        raise ValueError(
            f"net {name!r} is not known; choose one of {', '.join(sorted(NETS))}, torchvision:NAME or timm:NAME"
            f"{nearest(name, NETS)}"
        )
    if name in SCALED:
        if width is None:
            raise ValueError(f"net {name} needs a width")
        return SCALED[name](shape.num_outputs, shape.channels, shape.image_size, width)
    return FIXED[name](shape.num_outputs, shape.channels, shape.image_size)


def make_predictor(
    name: str,
    shape: NetShape,
    *,
    width: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    pretrained: bool = False,
) -> Predictor:
    """Build a predictor; weights are drawn from torch's global generator. Raises ValueError as `make_body` does."""
    return Predictor(make_body(name, shape, width=width, pretrained=pretrained), mean, std)
