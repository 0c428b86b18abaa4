"""Predictors by name: a plain dict from the name in params.yaml to a constructor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cgankd.config.nets import ZOOS, from_library, in_zoo
from cgankd.config.settings import nearest
from cgankd.nets.predictors.boards import DSCNN, TinyMobileNet
from cgankd.nets.predictors.convnet import ConvNet, PlainVGG
from cgankd.nets.predictors.densenet import SIZES, DenseNet
from cgankd.nets.predictors.efficientnet import EfficientNetB0
from cgankd.nets.predictors.external import make_external
from cgankd.nets.predictors.mobilenet import MobileNetV2
from cgankd.nets.predictors.paper import OWN
from cgankd.nets.predictors.resnet import PLANS, ResNet
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.shufflenet import ShuffleNetV1, ShuffleNetV2
from cgankd.nets.predictors.vgg import COUNTS, VGG
from cgankd.nets.predictors.wrn import SIZES as WIDE
from cgankd.nets.predictors.wrn import WideResNet
from cgankd.types import Outputs


class Predictor(nn.Module):
    """A body that resizes and normalises its own input: images [B, C, H, W] in [0, 1] to outputs [B, O].

    Mean and sd of the training pixels travel with the weights, so a saved student needs no side file to be used. With
    `input_size` the body sees images of that side, resized by antialiased bicubic interpolation.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, body: nn.Module, mean: Sequence[float], std: Sequence[float], input_size: int | None = None
    ) -> None:
        super().__init__()
        self.body, self.input_size = body, input_size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def seen(self, unit_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] as the body gets them."""
        if self.input_size is not None:
            size = (self.input_size, self.input_size)
            unit_BCHW = interpolate(unit_BCHW, size, mode="bicubic", align_corners=False, antialias=True)
        return (unit_BCHW - self.mean) / self.std

    def forward(self, unit_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] to outputs [B, O]."""
        out_BO: Tensor = self.body(self.seen(unit_BCHW))
        return out_BO

    def outputs(self, unit_BCHW: Tensor) -> Outputs:
        """Images in [0, 1] to outputs with the features that KD losses compare; `pred` equals `forward`."""
        out: Outputs = self.body.outputs(self.seen(unit_BCHW))  # type: ignore[operator]
        return out


SCALED: dict[str, Callable[..., nn.Module]] = {
    "convnet": ConvNet,
    "plain-vgg": PlainVGG,
    "ds-cnn": DSCNN,
    "tiny-mobilenet": TinyMobileNet,
}
"""Constructors from (num_outputs, channels, image_size, width)."""
FIXED: dict[str, Callable[[int, int, int], nn.Module]] = {
    **{name: partial(ResNet, plan=plan) for name, plan in PLANS.items()},
    **{name: partial(WideResNet, size=size) for name, size in WIDE.items()},
    **{name: partial(VGG, counts=counts) for name, counts in COUNTS.items()},
    "mobilenetv2": MobileNetV2,
    "shufflenetv1": ShuffleNetV1,
    "shufflenetv2": ShuffleNetV2,
    **{name: partial(DenseNet, size=size) for name, size in SIZES.items()},
    "efficientnet-b0": EfficientNetB0,
}
"""Constructors from (num_outputs, channels, image_size); their channels are those of the papers."""
NETS = {**SCALED, **FIXED}


def make_body(name: str, shape: NetShape, *, width: int | None, pretrained: bool = False) -> nn.Module:
    """A net for normalised images; weights are drawn from torch's global generator.

    With `pretrained` a net of torchvision or timm starts from the library's weights, which are downloaded.

    Raises ValueError on an unknown name, a width that does not go with it, a library's net that cannot be built, and
    a net of the paper for images of another size.
    """
    if from_library(name):
        return make_external(name, shape, pretrained=pretrained)
    if in_zoo(name):
        return make_of_zoo(name, shape)
    if name not in NETS:
        raise ValueError(
            f"net {name!r} is not known; choose one of {', '.join(sorted(NETS))}, torchvision:NAME, timm:NAME"
            f" or EXPERIMENT:NAME{nearest(name, NETS)}"
        )
    if name in SCALED:
        if width is None:
            raise ValueError(f"net {name} needs a width")
        return SCALED[name](shape.num_outputs, shape.channels, shape.image_size, width)
    return FIXED[name](shape.num_outputs, shape.channels, shape.image_size)


def make_of_zoo(name: str, shape: NetShape) -> nn.Module:
    """A net of one of the paper's experiments, by EXPERIMENT:NAME. Raises ValueError."""
    experiment, _, short = name.partition(":")
    zoo = ZOOS[experiment]
    if short not in zoo.nets:
        raise ValueError(f"the nets of {experiment} are {', '.join(zoo.nets)}, not {short!r}{nearest(short, zoo.nets)}")
    if shape.image_size != zoo.image_size:
        raise ValueError(f"net {name} is for images of {zoo.image_size} px, not {shape.image_size}; {zoo.cure(short)}")
    make = OWN[experiment].get(short) or FIXED[short]
    return make(shape.num_outputs, shape.channels, shape.image_size)


def make_predictor(
    name: str,
    shape: NetShape,
    *,
    width: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    input_size: int | None = None,
    pretrained: bool = False,
) -> Predictor:
    """Build a predictor for images of this shape, whose body sees them at `input_size` where that is given.

    Weights are drawn from torch's global generator. Raises ValueError as `make_body` does.
    """
    body = make_body(
        name, replace(shape, image_size=input_size or shape.image_size), width=width, pretrained=pretrained
    )
    return Predictor(body, mean, std, input_size)
