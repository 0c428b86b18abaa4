"""One reader for each data source, by the name in `data.source` and the kind of label it can give."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Protocol

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Dataset
from cgankd.data.readers.chair_images import load_chairs
from cgankd.data.readers.cifar import load_cifar
from cgankd.data.readers.csv_list import load_csv_classes, load_csv_scalars
from cgankd.data.readers.digits import load_digits
from cgankd.data.readers.hands import load_hands
from cgankd.data.readers.hdf5_sets import load_hdf5_classes, load_hdf5_scalars, load_rc49
from cgankd.data.readers.image_folder import load_image_folder
from cgankd.data.readers.repeats import replicated
from cgankd.data.readers.scalar_files import load_steering_angle, load_utkface
from cgankd.data.readers.tiny_imagenet import load_imagenet100, load_tiny_imagenet
from cgankd.data.store.room import Room, in_memory
from cgankd.types import LogFn, silent


class Reader(Protocol):
    """Reads a source and splits it; `cache` is a folder in which a reader may keep what is slow to make.

    Images are read in chunks into what `room` gives; digits, chairs, hands and the archives of CIFAR, small sets that
    come in one block, are held in memory.
    """

    def __call__(
        self, cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
    ) -> Dataset: ...


READERS: dict[str, dict[str, Reader]] = {
    "digits": {"class": load_digits},
    "chairs": {"scalar": load_chairs},
    "image-folder": {"class": load_image_folder},
    "csv": {"class": load_csv_classes, "scalar": load_csv_scalars},
    "cifar10": {"class": load_cifar},
    "cifar100": {"class": load_cifar},
    "tiny-imagenet": {"class": load_tiny_imagenet},
    "imagenet100": {"class": load_imagenet100},
    "rc49": {"scalar": load_rc49},
    "utkface": {"scalar": load_utkface},
    "steering-angle": {"scalar": load_steering_angle},
    "hands": {"class": load_hands},
    "hdf5": {"class": load_hdf5_classes, "scalar": load_hdf5_scalars},
}


def load(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Read `cfg.source` into training, validation and test images; a function of (cfg, seed) and the files under root.

    Raises ConfigError on an unknown source, a kind of label that it does not have, or files that cannot be used.
    """
    if cfg.source not in READERS:
        near = difflib.get_close_matches(cfg.source, READERS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"data.source must be one of {', '.join(READERS)}, but is {cfg.source!r}{hint}")
    kinds = READERS[cfg.source]
    if cfg.task not in kinds:
        raise ConfigError(f"data.task must be {' or '.join(kinds)} for data.source {cfg.source}, but is {cfg.task!r}")
    return replicated(kinds[cfg.task](cfg, seed, log=log, cache=cache, room=room), cfg.replicate_to, room)
