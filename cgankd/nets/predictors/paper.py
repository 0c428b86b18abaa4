"""The teachers and students of cGAN-KD's experiments (arXiv 2104.03164): the stems, strides and ends of the authors' zoos.

One zoo an experiment, each for one image size and one kind of label (`cgankd.config.nets.ZOOS`). Facts of the layers are
those of github.com/UBCDingXin/cGAN-KD, the published version and the first one; the code and the initial weights (He's,
as for all nets here) are this project's own. A net that a zoo names and this module does not is the one of that name alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from cgankd.nets.predictors import efficientnet, mobilenet
from cgankd.nets.predictors.densenet import SIZES, DenseNet
from cgankd.nets.predictors.efficientnet import EfficientNetB0
from cgankd.nets.predictors.mobilenet import MobileNetV2
from cgankd.nets.predictors.resnet import PLANS, ResNet
from cgankd.nets.predictors.shufflenet import ShuffleNetV1, ShuffleNetV2
from cgankd.nets.predictors.staged import LINEAR, End, Staged, Stem
from cgankd.nets.predictors.vgg import COUNTS, VGG
from cgankd.nets.predictors.wrn import SIZES as WIDE
from cgankd.nets.predictors.wrn import WideResNet

Make = Callable[[int, int, int], Staged]
"""A constructor from (num_outputs, channels, image_size)."""
LARGE = ("resnet18", "resnet34", "resnet50")
"""Residual nets of four stages; those of three are for smaller images."""
FIRST_VGGS = ("vgg11", "vgg13", "vgg16", "vgg19")
HALVINGS = (2, 2, 2, 2, 2)

FIRST_END = End(hidden=(128, 128), positive=True)
"""Scalars of the first version: two hidden layers of 128 units with batch norm, and a ReLU at the end."""
SCALAR_END = End(hidden=(512, 512), positive=True)
"""Scalars of the published version: 512 units."""
DROPPED = End(dropout=0.2)
HALF_STEM, QUARTER_STEM = Stem(4, 2), Stem(4, 2, pool=True)

UNGATED_TOP = efficientnet.Kind(last=False)
"""The authors' net for 32 px and up. Theirs also holds a 1x1 convolution of 1,088 numbers in the first block, never used."""
TENSORFLOW = efficientnet.Kind(stem_stride=2, same=True, norm=(1e-3, 0.01), drop_path=0.2)
TORCHVISION = mobilenet.Kind(factor=1.0, strides=(1, 2, 2, 2, 1, 2, 1), expand_by_one=False, limited=True)
FULL_32 = mobilenet.Kind(factor=1.0, stem_stride=1, project=True)
FULL_64 = replace(FULL_32, strides=(1, 2, 2, 2, 1, 2, 1))
HALF_128 = mobilenet.Kind(strides=(1, 2, 2, 2, 1, 2, 1))


def vggs(names: tuple[str, ...], pools: tuple[int, ...], end: End = LINEAR) -> dict[str, Make]:
    """VGG nets whose last map is flattened."""
    return {name: partial(VGG, counts=COUNTS[name], pools=pools, end=end) for name in names}


def strided_resnets(names: tuple[str, ...], end: End = LINEAR) -> dict[str, Make]:
    """Residual nets with a 3x3 stem at full resolution, whose every stage halves it."""
    return {name: partial(ResNet, plan=replace(PLANS[name], first_stride=2), end=end) for name in names}


def densenets(stem: Stem | None, extra_pool: bool, end: End = LINEAR) -> dict[str, Make]:
    """DenseNets with this stem."""
    made = partial(DenseNet, stem=stem, extra_pool=extra_pool, end=end)
    return {name: partial(made, size=size) for name, size in SIZES.items()}


CIFAR100: dict[str, Make] = {"efficientnet-b0": partial(EfficientNetB0, kind=UNGATED_TOP, end=DROPPED)}
CIFAR10: dict[str, Make] = {
    **vggs(FIRST_VGGS, HALVINGS),
    "mobilenetv2": partial(MobileNetV2, kind=FULL_32),
    "shufflenetv2": partial(ShuffleNetV2, stem=Stem(3, 1)),
    "efficientnet-b0": partial(EfficientNetB0, kind=UNGATED_TOP, end=DROPPED),
}
TINY_IMAGENET: dict[str, Make] = {
    **strided_resnets(LARGE),
    **vggs(FIRST_VGGS, HALVINGS),
    **densenets(None, True),
    "mobilenetv2": partial(MobileNetV2, kind=FULL_64),
    "shufflenetv2": partial(ShuffleNetV2, stem=Stem(3, 1, pool=True)),
    "efficientnet-b0": partial(EfficientNetB0, kind=UNGATED_TOP, end=DROPPED),
}
RC49: dict[str, Make] = {
    **strided_resnets(LARGE, FIRST_END),
    **vggs(FIRST_VGGS, HALVINGS, FIRST_END),
    **densenets(None, True, FIRST_END),
    "mobilenetv2": partial(MobileNetV2, kind=TORCHVISION, end=replace(FIRST_END, dropout=0.2)),
    "shufflenetv2": partial(ShuffleNetV2, stem=Stem(3, 2, pool=True), end=FIRST_END),
    "efficientnet-b0": partial(EfficientNetB0, kind=TENSORFLOW, end=replace(FIRST_END, dropout=0.2)),
}
UTKFACE: dict[str, Make] = {
    **strided_resnets(tuple(PLANS), SCALAR_END),
    **{name: partial(WideResNet, size=size, stem=HALF_STEM, end=SCALAR_END) for name, size in WIDE.items()},
    **vggs(tuple(COUNTS), HALVINGS, SCALAR_END),
    **densenets(HALF_STEM, False, SCALAR_END),
    "mobilenetv2": partial(MobileNetV2, kind=TORCHVISION, end=SCALAR_END),
    "shufflenetv1": partial(ShuffleNetV1, stem=HALF_STEM, end=SCALAR_END),
    "shufflenetv2": partial(ShuffleNetV2, stem=HALF_STEM, end=SCALAR_END),
    "efficientnet-b0": partial(EfficientNetB0, kind=UNGATED_TOP, end=replace(SCALAR_END, dropout=0.2)),
}
IMAGENET100: dict[str, Make] = {
    **{name: partial(ResNet, plan=replace(plan, stem=QUARTER_STEM)) for name, plan in PLANS.items()},
    **{name: partial(WideResNet, size=size, stem=QUARTER_STEM) for name, size in WIDE.items()},
    **vggs(tuple(COUNTS), (2, 2, 2, 1, 4), End(hidden=(1024, 1024), norm=False, hidden_dropout=0.5)),
    **densenets(QUARTER_STEM, False),
    "mobilenetv2": partial(MobileNetV2, kind=HALF_128),
    "shufflenetv1": partial(ShuffleNetV1, stem=QUARTER_STEM),
    "shufflenetv2": partial(ShuffleNetV2, stem=QUARTER_STEM),
    "efficientnet-b0": partial(EfficientNetB0, kind=UNGATED_TOP, end=DROPPED),
}
OWN: dict[str, dict[str, Make]] = {
    "cifar100": CIFAR100,
    "imagenet100": IMAGENET100,
    "steering-angle": UTKFACE,
    "utkface": UTKFACE,
    "cifar10": CIFAR10,
    "tiny-imagenet": TINY_IMAGENET,
    "rc49": RC49,
    "utkface-v1": RC49,
}
"""Constructors of the nets of a zoo that differ from those of the same name without a zoo."""
