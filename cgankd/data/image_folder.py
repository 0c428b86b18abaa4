"""The source `image-folder`: one folder of images for each class, split here or split already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Dataset, make_dataset
from cgankd.data.image_files import SUFFIXES, read_images
from cgankd.data.splits import capped_by_class, required_test_share, shuffled, split_classes
from cgankd.types import LogFn, Split, silent

PARTS = {"train": "train", "test": "test", "val": "val", "valid": "val"}
"""Sub-folders of a set that is split already, and the split that each one is."""


def load_image_folder(cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None) -> Dataset:
    """root/<class>/*.png, or root/train/<class>/ with root/test/<class>/ and root/val/<class>/ where they exist.

    Classes are the sorted folder names. Without a test folder `test_share` of each class is set aside; without a
    validation folder `val_per_label` or `num_val` images are taken out of training. Raises ConfigError with the file
    or class at fault.
    """
    listing = list_folder(cfg.root)
    paths, class_names, label_N = listing.paths, listing.class_names, torch.tensor(listing.labels)
    rows = _split(label_N, listing.parts, class_names, cfg, seed)
    notes = {"files_ignored": float(listing.num_ignored)}
    return read_rows(rows, paths, label_N, cfg, log, class_names=class_names, notes=notes)


@dataclass(frozen=True)
class Listing:
    """The images of a folder with the number of their class and the split they belong to ("train" where all do)."""

    paths: list[Path]
    labels: list[int]
    parts: list[str]
    class_names: tuple[str, ...]
    num_ignored: int


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


def read_rows(
    rows: dict[str, Tensor],
    paths: list[Path],
    label_N: Tensor,
    cfg: DataConfig,
    log: LogFn,
    *,
    class_names: tuple[str, ...] = (),
    notes: dict[str, float],
) -> Dataset:
    """Decode the images of the chosen rows, and only those, into a data set."""
    chosen = torch.cat(list(rows.values()))
    images, num_resized = read_images([paths[row] for row in chosen.tolist()], cfg, log)
    labels = label_N[chosen]
    splits, start = {}, 0
    for name, part in rows.items():
        splits[name] = Split(images[start : start + len(part)], labels[start : start + len(part)])
        start += len(part)
    notes = {"images_resized": float(num_resized)} | notes
    return make_dataset(cfg, splits, label_unit="" if class_names else "units", class_names=class_names, notes=notes)


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


def _split(
    label_N: Tensor, part_of: list[str], class_names: tuple[str, ...], cfg: DataConfig, seed: int
) -> dict[str, Tensor]:
    own = {part: torch.tensor([p == part for p in part_of]).nonzero()[:, 0] for part in ("train", "val", "test")}
    if len(own["test"]) and cfg.test_share is not None:
        raise ConfigError(f"data.test_share must be null: {cfg.root!r} has a test folder, which is the test split")
    share = None if len(own["test"]) else required_test_share(cfg)
    within = split_classes(
        label_N[own["train"]], class_names, cfg, seed, test_share=share, with_val=len(own["val"]) == 0
    )
    rows = {part: own["train"][index] for part, index in within.items()}
    if len(own["val"]):
        rows["val"] = own["val"]
    if len(own["test"]):
        test = shuffled(own["test"], seed, "split", "test")
        rows["test"] = capped_by_class(label_N, test, cfg.num_test, "data.num_test")
    return {part: rows[part] for part in ("train", "val", "test")}
