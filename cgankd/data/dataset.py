"""Three splits as a source gave them and what the set says of itself; `make_dataset` derives the statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cgankd.config import ConfigError, DataConfig
from cgankd.data.batches import chunks
from cgankd.data.turns import on_one_turn
from cgankd.types import DatasetInfo, Images, Split

STATS_ROWS = 1024
"""Images that are counted at a time."""
FEW = 5
"""Fewer validation images of a class than this say next to nothing of it."""
NAMES_SHOWN = 5
"""Names in a sentence; of the others the number is said."""


@dataclass(frozen=True)
class Account:
    """What became of the files of a source, for the user and for metrics/prepare.json; not a part of the data set, whose
    bytes do not change when a file that is no image appears."""

    counts: Mapping[str, float] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test images with `info`; `notes` are counts worth storing, such as images resized.

    `files` names the image files of each split, where they come from files; they are not stored.
    """

    train: Split
    val: Split
    test: Split
    info: DatasetInfo
    notes: Mapping[str, float]
    account: Account = Account()
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def splits(self) -> dict[str, Split]:
        """The three splits by name, in the order they are stored."""
        return {"train": self.train, "val": self.val, "test": self.test}


def pixel_stats(images_NCHW: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1], exact (from counts of the 256 levels).

    A channel of one single value gets the deviation of one level (1/255), for nets divide by it.
    """
    level = torch.arange(256, dtype=torch.float64) / 255.0
    count_C256 = torch.zeros(images_NCHW.shape[1], 256, dtype=torch.int64)
    for chunk in chunks(images_NCHW, STATS_ROWS):
        for channel, count in enumerate(count_C256):
            count += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    means, stds = [], []
    for count in count_C256:
        share = count.double() / count.sum()
        mean = float(share @ level)
        means.append(mean)
        stds.append(max(float((share @ (level - mean) ** 2).sqrt()), 1.0 / 255.0))
    return tuple(means), tuple(stds)


def make_dataset(
    cfg: DataConfig,
    splits: Mapping[str, Split],
    *,
    label_unit: str,
    class_names: tuple[str, ...] = (),
    notes: Mapping[str, float] | None = None,
) -> Dataset:
    """Assemble a data set from its "train", "val" and "test" splits; without class names the labels are scalars.

    Labels that go round are brought to one turn of data.label_period, which the account says.
    Raises ConfigError where a split is empty or a scalar label lies outside the label range of the config.
    """
    for name, split in splits.items():
        if len(split) == 0:
            raise ConfigError(
                f"data.root {cfg.root!r} leaves no {name} images; give more images or lower the other splits"
                " (data.num_val, data.val_per_label, data.test_share)"
            )
        assert split.images.shape[1:] == (cfg.channels, cfg.image_size, cfg.image_size), "readers give one shape"
    cfg, splits, said = on_one_turn(cfg, splits)
    low, high = (0.0, 1.0) if class_names else label_range(cfg, splits)
    mean, std = pixel_stats(splits["train"].images)
    info = DatasetInfo(
        kind=cfg.task,
        source=cfg.source,
        label_unit=label_unit,
        channels=cfg.channels,
        image_size=cfg.image_size,
        pixel_mean=mean,
        pixel_std=std,
        class_names=class_names,
        label_min=low,
        label_max=high,
        label_period=cfg.label_period,
        label_answer=cfg.answer,
        fit=cfg.fit,
        enlarge=cfg.enlarge,
        pad_colour=cfg.pad_colour,
        background=cfg.background,
        pixel_range=cfg.pixel_range,
    )
    account = Account(lines=tuple(said))
    return Dataset(splits["train"], splits["val"], splits["test"], info, dict(notes or {}), account)


def label_range(cfg: DataConfig, splits: Mapping[str, Split]) -> tuple[float, float]:
    """Range of scalar labels in raw units: what the config sets, else the extremes of the training labels.

    Raises ConfigError where all training labels are equal or a label lies outside a set end.
    """
    train = splits["train"].labels
    low = float(train.min()) if cfg.label_min is None else cfg.label_min
    high = float(train.max()) if cfg.label_max is None else cfg.label_max
    if not low < high:
        raise ConfigError(f"data.root {cfg.root!r}: training labels run from {low:g} to {high:g} only")
    for name, split in splits.items():
        smallest, largest = float(split.labels.min()), float(split.labels.max())
        if cfg.label_min is not None and smallest < low:
            raise ConfigError(f"data.label_min {low:g} is above the {name} label {smallest:g}; lower it or use null")
        if cfg.label_max is not None and largest > high:
            raise ConfigError(f"data.label_max {high:g} is below the {name} label {largest:g}; raise it or use null")
    return low, high


def gaps(names: Sequence[str], counts: Mapping[str, Sequence[int]], kind: tuple[str, str], few: int = FEW) -> list[str]:
    """Which classes or label ranges that are trained on have no test image or few validation images, in words; nothing where
    all is well.

    `counts` are those of "train", "val" and "test" for each name, `kind` names one group and several.
    """
    trained = [index for index, count in enumerate(counts["train"]) if count]
    untested = [names[index] for index in trained if not counts["test"][index]]
    thin = [f"{names[index]} {counts['val'][index]}" for index in trained if counts["val"][index] < few]
    least = f"there are fewer than {few} validation images" if few > 1 else "there is no validation image"
    found = (("there is no test image", untested), (least, thin))
    return [f"{what} of {len(those)} {kind[len(those) > 1]} ({listed(those)})" for what, those in found if those]


def class_counts(dataset: Dataset) -> dict[str, list[int]]:
    """Images of each class in each split."""
    size = len(dataset.info.class_names)
    return {name: torch.bincount(split.labels, minlength=size).tolist() for name, split in dataset.splits().items()}


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
