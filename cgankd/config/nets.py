"""Names of predictors, which of them have a width, which go with which data, and the settings of a teacher of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cgankd.config.settings import ConfigError, check_name, nearest, require
from cgankd.config.weights import LIBRARY, StartConfig, check_digest

SCALED_NETS = ("convnet", "plain-vgg", "ds-cnn", "tiny-mobilenet")
"""Nets with as many channels as `width` says."""
FIXED_NETS = (
    *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet8x4", "resnet32x4"),
    *("resnet18", "resnet34", "resnet50", "wrn16-1", "wrn16-2", "wrn40-1", "wrn40-2"),
    *("vgg8", "vgg11", "vgg13", "vgg16", "vgg19", "mobilenetv2", "shufflenetv1", "shufflenetv2"),
    *("densenet121", "densenet161", "densenet169", "densenet201", "efficientnet-b0"),
)
"""Nets whose channels are those of their papers."""
NETS = (*SCALED_NETS, *FIXED_NETS)
"""Predictors of cgankd.nets.predictors.zoo; named here so that a typo ends before anything is trained."""
LIBRARIES = ("torchvision", "timm")
"""Packages whose nets go by `torchvision:NAME` and `timm:NAME`; their names are looked up when the net is built."""


@dataclass(frozen=True)
class Zoo:
    """The nets that the paper's authors had for one experiment: for images of one size and one kind of label."""

    image_size: int
    task: Literal["class", "scalar"]
    nets: tuple[str, ...]

    def cure(self, net: str) -> str:
        """What to do where a net of this zoo does not fit the data."""
        if net in FIXED_NETS:
            return f"take {net}, which has any size and both kinds of labels, or one of torchvision:NAME"
        return "take a net without an experiment's name"


_SMALL = ("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet8x4", "resnet32x4")
_LARGE, _WIDE = ("resnet18", "resnet34", "resnet50"), ("wrn16-1", "wrn16-2", "wrn40-1", "wrn40-2")
_VGG, _LIGHT = ("vgg11", "vgg13", "vgg16", "vgg19"), ("mobilenetv2", "shufflenetv2", "efficientnet-b0")
_DENSE = ("densenet121", "densenet161", "densenet169", "densenet201")
_FIRST = (*_LARGE, *_VGG, *_DENSE, *_LIGHT)
_LATER = (*_SMALL, *_LARGE, *_WIDE, "vgg8", *_VGG, *_DENSE, "shufflenetv1", *_LIGHT)
_SCALARS = Zoo(64, "scalar", _LATER)
_FIRST_SCALARS = Zoo(64, "scalar", _FIRST)
ZOOS = {
    "cifar100": Zoo(32, "class", tuple(net for net in _LATER if net not in ("resnet18", "resnet34"))),
    "imagenet100": Zoo(128, "class", _LATER),
    "steering-angle": _SCALARS,
    "utkface": _SCALARS,
    "cifar10": Zoo(32, "class", _FIRST),
    "tiny-imagenet": Zoo(64, "class", _FIRST),
    "rc49": _FIRST_SCALARS,
    "utkface-v1": _FIRST_SCALARS,
}
"""Nets that go by EXPERIMENT:NAME: the published version of the paper first, then the first version."""


def in_zoo(net: str) -> bool:
    """Whether a name is that of a net of one of the paper's experiments."""
    return net.partition(":")[0] in ZOOS and ":" in net


def check_fits(net: str, image_size: int, task: str, section: str, size_name: str = "data.image_size") -> None:
    """Raise ConfigError where a net of one of the paper's experiments does not go with the images or the labels.

    `size_name` is the setting that says how large the net sees the images.
    """
    if not in_zoo(net):
        return
    experiment, _, short = net.partition(":")
    zoo = ZOOS[experiment]
    kinds = {"class": "classes", "scalar": "numbers"}
    if image_size != zoo.image_size:
        raise ConfigError(
            f"{section}.net {net} is for images of {zoo.image_size} px, but {size_name} is {image_size};"
            f" {zoo.cure(short)}"
        )
    if task != zoo.task:
        raise ConfigError(
            f"{section}.net {net} is for labels that are {kinds[zoo.task]}, but data.task is {task}; {zoo.cure(short)}"
        )


def from_library(net: str) -> bool:
    """Whether a name is that of a net of torchvision or timm."""
    return net.partition(":")[0] in LIBRARIES and ":" in net


def check_net(net: str, width: int | None, section: str) -> None:
    """Raise ConfigError unless the net is known and the width goes with it."""
    if ":" in net:
        library, _, name = net.partition(":")
        if library in ZOOS:
            check_name(name, ZOOS[library].nets, f"{section}.net {library}:NAME")
        elif library not in LIBRARIES or not name:
            raise ConfigError(
                f"{section}.net must be a name of cgankd, torchvision:NAME or timm:NAME, or EXPERIMENT:NAME of the paper,"
                f" but is {net!r}{nearest(library, (*LIBRARIES, *ZOOS))}"
            )
    else:
        check_name(net, NETS, f"{section}.net")
    if net in SCALED_NETS:
        require(width is not None and width >= 1, f"{section}.width", f"at least 1 for {net}", width)
    else:
        require(width is None, f"{section}.width", f"null for {net}, whose channels are fixed", width)


@dataclass(frozen=True, kw_only=True)
class OwnTeacherConfig(StartConfig):
    """A teacher that comes from a file; the defaults train one."""

    file: str | None = None
    """A teacher of your own, which is then not trained: a state dict of teacher.net (.safetensors, .pt), a TorchScript
    file or a torch.export program (.pt2), told apart by what is in them; null = train teacher.net."""
    file_digest: str | None = None
    """SHA-256 of that file, its first 8 digits or more: the stage refuses another file, and a new digest makes DVC run it
    again; null = any file."""
    output_unit: Literal["normalised", "raw"] = "normalised"
    """Scalar labels: whether teacher.file says the label in [0, 1] of the label range, or in raw units."""
    pretrained: bool = False
    """The older spelling of `weights: library`."""

    @property
    def starts_from(self) -> str | None:
        """What `weights` says, older spellings counted."""
        return LIBRARY if self.pretrained else self.weights

    def check_own(self, net: str) -> None:
        """Range checks; called by the sub-class, which knows the net. Raises ConfigError."""
        digest = self.file_digest
        if self.file is None:
            require(digest is None, "teacher.file_digest", "null where teacher.file is null", digest)
            require(
                self.output_unit == "normalised", "teacher.output_unit", "normalised where teacher.file is null", "raw"
            )
        else:
            require(self.file != "", "teacher.file", "null or the path of a file", self.file)
            require(not self.pretrained, "teacher.pretrained", "false where teacher.file is set", True)
            rule = "null where teacher.file is set, whose teacher is not trained"
            require(self.weights is None, "teacher.weights", rule, self.weights)
        check_digest(digest, "teacher.file_digest")
        require(
            not self.pretrained or from_library(net),
            "teacher.pretrained",
            "false unless teacher.net is torchvision:NAME or timm:NAME",
            True,
        )
        both = self.pretrained and self.weights not in (None, LIBRARY)
        require(not both, "teacher.pretrained", "false where teacher.weights names other weights", True)
