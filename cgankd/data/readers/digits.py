"""The handwritten digits that come with scikit-learn: 1,797 real scans of 8x8 pixels, no download."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Dataset, make_dataset
from cgankd.data.readers.splits import capped_by_class, shuffled, train_caps, val_shares
from cgankd.data.store.room import Room, in_memory
from cgankd.types import LogFn, Split, silent

RESERVED_PER_CLASS = 50
"""Images of each class kept free for training, so that the test images do not depend on `train_per_label`."""


def load_digits(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """The digits, bilinearly enlarged to `image_size`, grey. In the seeded order of each class: validation first,
    then 50 reserved for training of which the first `train_per_label` are taken, the rest is test.

    Raises ConfigError on settings that this source cannot meet.
    """
    from sklearn.datasets import load_digits as read_digits

    _check(cfg)
    raw = read_digits()
    small = torch.from_numpy(raw.images).float()[:, None]
    size = (cfg.image_size, cfg.image_size)
    images = F.interpolate(small * (255.0 / 16.0), size=size, mode="bilinear", align_corners=False)
    split = Split(images.round().clamp(0, 255).to(torch.uint8), torch.from_numpy(raw.target).long())
    names = tuple(str(name) for name in raw.target_names)
    parts: dict[str, list[torch.Tensor]] = {"train": [], "val": [], "test": []}
    shares, caps = val_shares(cfg, torch.bincount(split.labels).tolist()), train_caps(cfg, len(names))
    for index, (num_val, cap) in enumerate(zip(shares, caps, strict=True)):
        rows = shuffled((split.labels == index).nonzero()[:, 0], seed, "split", names[index])
        if num_val + RESERVED_PER_CLASS >= len(rows):
            raise ConfigError(
                f"class {names[index]!r} of the digits has {len(rows)} images, too few for {num_val} validation and"
                f" {RESERVED_PER_CLASS} reserved training images; lower data.val_per_label or data.num_val"
            )
        parts["val"].append(rows[:num_val])
        parts["train"].append(rows[num_val : num_val + (cap or RESERVED_PER_CLASS)])
        parts["test"].append(rows[num_val + RESERVED_PER_CLASS :])
    chosen = {name: torch.cat(rows) for name, rows in parts.items()}
    chosen["train"] = capped_by_class(split.labels, chosen["train"], cfg.num_train, "data.num_train")
    chosen["test"] = capped_by_class(split.labels, chosen["test"], cfg.num_test, "data.num_test")
    splits = {name: split.take(rows) for name, rows in chosen.items()}
    return make_dataset(cfg, splits, label_unit="", class_names=names)


def _check(cfg: DataConfig) -> None:
    if cfg.channels != 1:
        raise ConfigError(f"data.channels must be 1 for the digits, which are grey, but is {cfg.channels}")
    if cfg.train_per_label is not None and cfg.train_per_label > RESERVED_PER_CLASS:
        raise ConfigError(
            f"data.train_per_label must be at most {RESERVED_PER_CLASS} for the digits, but is {cfg.train_per_label}"
        )
    if cfg.test_share is not None:
        raise ConfigError("data.test_share must be null for the digits, whose test images are fixed by the seed")
