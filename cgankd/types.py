"""The nouns every module shares: image sets, the bank, pairings, and the protocols library code is written against.

Shape letters used in the whole package: B batch, N data set, M bank, C channels, H height, W width,
O network outputs, E label embedding, Z latent, K conditions, G groups, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Diverged(ValueError):
    """A training whose loss, or a net whose answers, are no longer finite numbers; the message names what to lower."""


class SupplyEnded(ValueError):
    """A finite source of images has none left for any of the labels asked for."""


class Images(Protocol):
    """uint8 images [N, C, H, W] at rest: a tensor, or rows of a file that are read when asked for (data.store.stream).

    Indexed by row numbers [B], a mask [N] or a slice, which give a tensor; whole sets are walked by `batches.chunks`.
    """

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def ndim(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor: ...


@dataclass(frozen=True)
class Split:
    """Images at rest with their labels: uint8 [N, C, H, W] and raw-unit labels [N] (int64 classes or float32 scalars)."""

    images: Images
    labels: Tensor

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8 and self.images.ndim == 4, "images at rest are uint8 [N, C, H, W]"
        assert self.labels.ndim == 1 and len(self.labels) == len(self.images), "one label an image"

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index_B: Tensor) -> Split:
        """The rows named by an index or mask, in that order."""
        return Split(self.images[index_B], self.labels[index_B])


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set says of itself; `kind` is "class" or "scalar", pixel statistics are of the training split in [0, 1]."""

    kind: str
    source: str
    label_unit: str
    channels: int
    image_size: int
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    label_min: float = 0.0
    label_max: float = 1.0
    label_period: float | None = field(default=None, metadata={"left_out": True})
    """Scalar labels on a circle: its length in raw units, at least the label range; None, a line, is not written."""
    label_answer: str = field(default="scalar", metadata={"left_out": True})
    """What nets answer with: scalar, the label itself, or circle, the (cos, sin) of a label on a circle."""
    fit: str = field(default="refuse", metadata={"left_out": True})
    """How image files that are not square were made so, and are by `predict`: the settings of `data` by these names."""
    enlarge: bool = field(default=False, metadata={"left_out": True})
    pad_colour: str | None = field(default=None, metadata={"left_out": True})
    background: str = field(default="#ffffff", metadata={"left_out": True})
    pixel_range: tuple[float, ...] | None = field(default=None, metadata={"left_out": True})


class ImageShape(Protocol):
    """Whatever says how large images are: the data settings, or a data set."""

    @property
    def channels(self) -> int: ...

    @property
    def image_size(self) -> int: ...


@dataclass(frozen=True)
class Bank:
    """Fakes that survived M1 and M2, each with its provenance.

    images uint8 [M, C, H, W]; asked [M] is the label asked of the GAN, labels [M] the label after M2;
    ratio [M] is r(x given y), teacher_error [M] in raw units, teacher_output [M, O] float16.
    """

    images: Tensor
    asked: Tensor
    labels: Tensor
    ratio: Tensor
    teacher_error: Tensor
    teacher_output: Tensor

    def split(self) -> Split:
        """The bank as a training set."""
        return Split(self.images, self.labels)


@dataclass(frozen=True)
class Outputs:
    """What a predictor shows of itself to a KD loss; a part it does not have is None or empty.

    pred [B, O]: logits, the label normalised to [0, 1], or (cos, sin) of a label on a circle.
    pooled [B, F]: input of the last linear layer.
    stages: one map [B, C, H, W] a stage, after its last ReLU, from fine to coarse; preacts: the same before that ReLU.
    head: the last linear layer, pred = head(pooled).
    """

    pred: Tensor
    pooled: Tensor | None = None
    stages: tuple[Tensor, ...] = ()
    preacts: tuple[Tensor, ...] = ()
    head: nn.Module | None = None


@dataclass(frozen=True)
class Pairing:
    """Real partners of a batch of target labels: row numbers [B] in the training split and weights [B] of the vicinal loss."""

    index: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Headline:
    """The one number a task is judged by."""

    name: str
    unit: str
    higher_is_better: bool


class Vicinity(Protocol):
    """Which real images may stand in for a target label, and with what weight (METHOD: CcGAN; exact matching is zero width)."""

    period: float | None
    """Length of the circle in raw units where labels lie on one."""

    def targets(self, num: int, gen: torch.Generator) -> Tensor:
        """Draw target labels [num] in raw units from the smoothed training marginal."""

    def asked(self, num: int, gen: torch.Generator) -> Tensor:
        """Target labels [num] that lie in the label range, as those asked for a bank do."""

    def pair(self, target_B: Tensor, gen: torch.Generator) -> Pairing:
        """Draw one real partner for each target, with its weight."""

    def fake_labels(self, target_B: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """Labels [B] to ask of the generator around each target, and their weights [B]."""

    def neighbours(self, label_B: Tensor, radius: float, gen: torch.Generator) -> Tensor:
        """Labels [B] drawn uniformly within +-radius (raw units) of each label; exact matching returns the labels."""


class LabelEmbed(Protocol):
    """A module mapping raw labels [B] to h [B, E]; `trained_with_gan` tells whether the GAN's optimiser moves it."""

    trained_with_gan: bool

    def __call__(self, label_B: Tensor) -> Tensor: ...


class Task(Protocol):
    """The one seam between classification and regression: everything outside `cgankd.labels.task` is blind to the kind."""

    num_outputs: int
    num_classes: int
    """0 for scalars."""
    group_kind: tuple[str, str]
    """What a group of `filter_groups` is, one and several: class and classes, or label range and label ranges."""
    period: float | None
    """Length of the circle in normalised units where labels lie on one."""
    label_dtype: torch.dtype
    headline: Headline

    @property
    def group_names(self) -> tuple[str, ...]:
        """What each number of `filter_groups` stands for: the class, or the ends of the label range in raw units."""

    def targets(self, label_B: Tensor) -> Tensor:
        """Labels as the outputs have them, [B]: int64 classes, or float32 normalised to [0, 1]."""

    def mixed_labels(self, label_B: Tensor, other_B: Tensor, weight_B: Tensor) -> Tensor:
        """Labels of mixtures, lambda [B] of the first image, that `targets` and `loss` take: lambda e_y + (1 - lambda) e_y'
        [B, O] of classes, lambda y + (1 - lambda) y' [B] of scalars, on a circle along the shorter way from y to y'."""

    def loss(self, out_BO: Tensor, label_B: Tensor) -> Tensor:
        """Mean hard loss of a batch (cross-entropy, or absolute or squared error on the normalised label)."""

    def soft_loss(self, out_BO: Tensor, teacher_BO: Tensor, *, temperature: float) -> Tensor:
        """Mean Hinton loss of a batch: KL * T^2, or absolute or squared difference on the normalised label."""

    def divergence(self, out_BO: Tensor, teacher_BO: Tensor) -> Tensor:
        """How far a student's outputs are from the teacher's, [B]: KL(p_t || p_s) in nats, or the absolute difference of the
        answers in raw units, the short way round where labels go round."""

    def score(self, out_BO: Tensor, label_B: Tensor) -> Tensor:
        """Per-sample headline [B] whose mean is reported (0/100 error in %, or absolute error in raw units)."""

    def error(self, out_BO: Tensor, label_B: Tensor) -> Tensor:
        """Teacher error [B] for M2's filter: cross-entropy in nats, or absolute error in raw units."""

    def predict(self, out_BO: Tensor) -> Tensor:
        """Predicted label [B] in raw units (arg max, or the clipped scalar, never truncated)."""

    def filter_groups(self, label_B: Tensor) -> Tensor:
        """Group number [B] (int64) within which M2's quantile and M1's bound are taken: the class, or the label bin."""

    def conditions(self, label_N: Tensor) -> Tensor:
        """Labels [K] to synthesise for."""

    def vicinity(self, label_N: Tensor, targets: str = "marginal") -> Vicinity:
        """How targets meet real images during GAN and ratio training; `targets` is their law (`cgan.targets`)."""

    def label_embed(self, dim: int) -> nn.Module:
        """A fresh module from raw labels [B] to h [B, dim] (see LabelEmbed)."""


class Draw(Protocol):
    """Any conditional generator: labels [B] in raw units to uint8 images [B, C, H, W]."""

    def __call__(self, label_B: Tensor, gen: torch.Generator) -> Tensor: ...


@runtime_checkable
class Dealing(Protocol):
    """A Draw with a finite stock, of which nothing comes twice within a run of blocks of one label group."""

    def restart(self, label_B: Tensor) -> None:
        """Begin a run of blocks anew for the groups of these labels."""

    def skip(self, label_B: Tensor) -> None:
        """Go on as if these labels had been drawn."""

    def servable(self, label_B: Tensor) -> Tensor:
        """True [B] for the labels that an image is left for, if they are drawn together; deals none."""


class RatioFn(Protocol):
    """A density ratio r(x given y) [B] of uint8 images and the labels asked for."""

    def __call__(self, images_BCHW: Images, label_B: Tensor) -> Tensor: ...


class PredictFn(Protocol):
    """A frozen predictor: uint8 images [B, C, H, W] to float32 outputs [B, O]."""

    def __call__(self, images_BCHW: Images) -> Tensor: ...


class LogFn(Protocol):
    """Where a loop reports: `log(step, {"loss": 0.3}, total)`; the receiver draws progress and keeps curves."""

    def __call__(self, step: int, values: Mapping[str, float], total: int) -> None: ...


class Checkpoint(Protocol):
    """Resume storage of one loop: None from `load` means a fresh start."""

    def load(self) -> dict[str, object] | None: ...

    def save(self, step: int, state: dict[str, object]) -> None: ...


def silent(step: int, values: Mapping[str, float], total: int) -> None:
    """A LogFn that keeps nothing."""
