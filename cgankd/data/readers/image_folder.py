"""The source `image-folder`: one folder of images for each class, split here or split already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Dataset, make_dataset
from cgankd.data.readers.image_files import SUFFIXES, read_images
from cgankd.data.readers.splits import split_parts
from cgankd.data.store.room import Room, in_memory
from cgankd.types import LogFn, Split, silent

PARTS = {"train": "train", "test": "test", "val": "val", "valid": "val"}
"""Sub-folders of a set that is split already, and the split that each one is."""


def load_image_folder(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """root/<class>/*.png, or root/train/<class>/ with root/test/<class>/ and root/val/<class>/ where they exist.

    Classes are the sorted folder names. Without a test folder `test_share` of each class is set aside; without a
    validation folder `val_per_label` or `num_val` images are taken out of training. Raises ConfigError with the file
    or class at fault.
    """
    return read_listing(list_folder(cfg.root), cfg, seed, log, room)


def read_listing(
    listing: Listing, cfg: DataConfig, seed: int, log: LogFn, room: Room, *, crop: bool = False
) -> Dataset:
    """Split what a listing names and decode it; notes say how many images were found and how many files ignored."""
    label_N = torch.tensor(listing.labels)
    rows = split_parts(label_N, listing.parts, listing.class_names, cfg, seed)
    notes = {"files_ignored": float(listing.num_ignored)} | dict(listing.notes)
    files = LabelledFiles(listing.paths, label_N, class_names=listing.class_names, notes=notes, crop=crop)
    return read_rows(files, rows, cfg, log, room)


@dataclass(frozen=True)
class Listing:
    """The images of a folder with the number of their class and the split they belong to ("train" where all do)."""

    paths: list[Path]
    labels: list[int]
    parts: list[str]
    class_names: tuple[str, ...]
    num_ignored: int
    notes: Mapping[str, float] = field(default_factory=dict)


def list_folder(text: str) -> Listing:
    """All images under a root in the layout of `load_image_folder`, none of them opened. Raises ConfigError."""
    root = Path(text)
    if not root.is_dir():
        raise ConfigError(f"data.root {text!r} is not a folder; name one with a sub-folder of images for each class")
    folders = _parts(root)
    class_names = tuple(_sub_folders(folders["train"]))
    if len(class_names) < 2:
        raise ConfigError(
            f"data.root: {str(folders['train'])!r} has {len(class_names)} sub-folders; there must be one for each of"
            " at least two classes"
        )
    paths: list[Path] = []
    labels: list[int] = []
    part_of: list[str] = []
    ignored = 0
    for part, folder in folders.items():
        for name in _sub_folders(folder):
            if name not in class_names:
                raise ConfigError(
                    f"{folder / name} is a class that the training folder {folders['train']} lacks; add it there"
                )
            files = sorted(path for path in (folder / name).iterdir() if path.is_file())
            images = [path for path in files if path.suffix.lower() in SUFFIXES]
            if not images:
                raise ConfigError(
                    f"{folder / name} has no images ({', '.join(sorted(SUFFIXES))}); add some or remove it"
                )
            ignored += len(files) - len(images)
            paths += images
            labels += [class_names.index(name)] * len(images)
            part_of += [part] * len(images)
    return Listing(paths, labels, part_of, class_names, ignored)


@dataclass(frozen=True)
class LabelledFiles:
    """Image files of a source with their labels [N], and what is to be said of them.

    `label_unit` is that of scalar labels, which have no class names. `crop`: the middle square of each image is used.
    """

    paths: list[Path]
    label_N: Tensor
    class_names: tuple[str, ...] = ()
    label_unit: str = "units"
    notes: Mapping[str, float] = field(default_factory=dict)
    crop: bool = False


def read_rows(files: LabelledFiles, rows: dict[str, Tensor], cfg: DataConfig, log: LogFn, room: Room) -> Dataset:
    """Decode the images of the rows of each split, and only those, into a data set."""
    chosen = torch.cat(list(rows.values()))
    paths = [files.paths[row] for row in chosen.tolist()]
    images, num_resized = read_images(paths, cfg, log, crop=files.crop, room=room)
    labels = files.label_N[chosen]
    splits, start = {}, 0
    for name, part in rows.items():
        splits[name] = Split(images[start : start + len(part)], labels[start : start + len(part)])
        start += len(part)
    notes = {"images_resized": float(num_resized)} | dict(files.notes)
    unit = "" if files.class_names else files.label_unit
    return make_dataset(cfg, splits, label_unit=unit, class_names=files.class_names, notes=notes)


def _sub_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _parts(root: Path) -> dict[str, Path]:
    """Folder of each split: the root alone, or its sub-folders where all of them are names of splits."""
    names = _sub_folders(root)
    if not names:
        images = sum(path.suffix.lower() in SUFFIXES for path in root.iterdir())
        if images:
            raise ConfigError(
                f"data.root {str(root)!r} has {images} images but no sub-folders; sort them into one sub-folder for each"
                " class, or name a CSV file with the lines path,label"
            )
        raise ConfigError(f"data.root {str(root)!r} is empty; put a sub-folder of images for each class into it")
    if "train" not in names or not set(names) <= set(PARTS):
        return {"train": root}
    if {"val", "valid"} <= set(names):
        raise ConfigError(f"data.root {str(root)!r} has both val and valid; keep one of them")
    return {PARTS[name]: root / name for name in names}
