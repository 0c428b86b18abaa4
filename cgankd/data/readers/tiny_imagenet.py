"""The sources `tiny-imagenet` (Le and Yang 2015) and `imagenet100` (100 classes of ImageNet, Tian et al. 2020)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Dataset
from cgankd.data.readers.class_folders import Listing, list_folder
from cgankd.data.readers.image_folder import middle_squares, read_listing
from cgankd.data.readers.walk import is_hidden, is_image
from cgankd.data.regular import MAX_LIST, read_text
from cgankd.data.store.room import Room, in_memory
from cgankd.types import LogFn, silent

PART = "for a part of the set give data.source csv a list of its images"


@dataclass(frozen=True)
class Size:
    """How many images a public set has."""

    classes: int
    train: tuple[int, int]
    """Least and most training images of a class."""
    test: int
    """Images of a class in the official val."""


TINY = Size(classes=200, train=(500, 500), test=50)
IMAGENET100 = Size(classes=100, train=(732, 1300), test=50)
"""Every class of ImageNet-1k has 732 to 1,300 training images."""
NUM_IMAGENET100 = 131_689
"""Training and val images of the usual 100 classes, those of arXiv 1906.05849."""


def load_tiny_imagenet(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """The folder tiny-imagenet-200: wnids.txt, words.txt, train/<wnid>/images/, val/images/ with val_annotations.txt.

    The official val is the test split (the labels of the official test are not public); validation is taken out of
    training. Classes are the sorted wnids under the first of their names in words.txt. Grey files become RGB.

    Checks: 200 wnids, each with 500 training images; 10,000 images of val, 50 a class, each with one line of annotations
    and every line with its image. Raises ConfigError naming the file, line or class at fault.
    """
    root = Path(cfg.root)
    wnids = sorted(set(_lines(root / "wnids.txt")))
    if len(wnids) != TINY.classes:
        raise ConfigError(
            f"{root / 'wnids.txt'} names {len(wnids)} classes instead of {TINY.classes}; unpack the archive again, or"
            f" {PART}"
        )
    train = {wnid: _images(root / "train" / wnid / "images") for wnid in wnids}
    for wnid, found in train.items():
        if len(found) != TINY.train[0]:
            raise ConfigError(
                f"{root / 'train' / wnid / 'images'} has {len(found)} images instead of {TINY.train[0]}; unpack the"
                f" archive again, or {PART}"
            )
    test = _annotated(root / "val", wnids)
    times = Counter(label for _, label in test)
    for number, wnid in enumerate(wnids):
        if times[number] != TINY.test:
            raise ConfigError(
                f"{root / 'val'} has {times[number]} images of class {wnid} instead of {TINY.test} ({len(test)} in all);"
                f" unpack the archive again, or {PART}"
            )
    paths = [path for wnid in wnids for path in train[wnid]] + [path for path, _ in test]
    labels = [wnids.index(wnid) for wnid in wnids for _ in train[wnid]] + [label for _, label in test]
    parts = ["train"] * (len(paths) - len(test)) + ["test"] * len(test)
    notes = {"images_found": float(len(paths))}
    return read_listing(Listing(paths, labels, parts, _names(root, wnids), notes=notes), cfg, seed, log, room)


def load_imagenet100(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Class folders in train/ and in val/ or test/; the middle square of each image is brought to data.image_size.

    A val/ without test/ is the test split, as ImageNet's labelled val is in the literature. Checks: 100 class folders
    in each part; without test/, as ImageNet comes, 732 to 1,300 images of train and 50 of val in each. The note
    `images_missing` says how many images the usual 100 classes have more. Raises ConfigError naming the folder or file at fault.
    """
    listing = list_folder(cfg.root)
    if not {"val", "test"} & set(listing.parts):
        raise ConfigError(f"data.root {cfg.root!r} has no val or test folder beside train; put one there")
    _check_classes(cfg, listing)
    if "test" not in listing.parts:
        listing = replace(listing, parts=["test" if part == "val" else part for part in listing.parts])
    found = len(listing.paths)
    notes = {"images_found": float(found), "images_missing": float(max(0, NUM_IMAGENET100 - found))}
    listing = replace(listing, notes=notes)
    return read_listing(listing, middle_squares(cfg), seed, log, room)


def _check_classes(cfg: DataConfig, listing: Listing) -> None:
    """Raise ConfigError unless each part has the classes, and each class its images where ImageNet's own parts are kept."""
    bounds = {} if "test" in listing.parts else {"train": IMAGENET100.train, "val": (IMAGENET100.test,) * 2}
    for part in sorted(set(listing.parts)):
        times = Counter(label for label, own in zip(listing.labels, listing.parts, strict=True) if own == part)
        if len(times) != IMAGENET100.classes:
            raise ConfigError(
                f"data.root {cfg.root!r} has {len(times)} classes in its {part} images, but imagenet100 has"
                f" {IMAGENET100.classes}; complete it, or set data.source to image-folder"
            )
        low, high = bounds.get(part, (1, len(listing.paths)))
        for label, count in sorted(times.items()):
            if not low <= count <= high:
                wanted = f"{low} to {high}" if low != high else str(low)
                raise ConfigError(
                    f"data.root {cfg.root!r} has {count} {part} images of class {listing.class_names[label]} instead of"
                    f" {wanted}; complete it, or set data.source to image-folder"
                )


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; data.root must be the folder tiny-imagenet-200 as unpacked")
    text = read_text(path, MAX_LIST, "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist; data.root must be the folder tiny-imagenet-200 as unpacked")
    return sorted(path for path in folder.iterdir() if is_image(path) and not is_hidden(path.name))


def _annotated(folder: Path, wnids: list[str]) -> list[tuple[Path, int]]:
    """Images of val with the number of their class. A line is: file, wnid and a box, parted by tabs."""
    images = {path.name: path for path in _images(folder / "images")}
    listing = folder / "val_annotations.txt"
    number = {wnid: place for place, wnid in enumerate(wnids)}
    found: dict[str, int] = {}
    for place, line in enumerate(_lines(listing), start=1):
        cells = line.split("\t")
        if len(cells) < 2 or cells[1] not in number:
            raise ConfigError(f"{listing}: line {place} is {line!r}, not a file and a class of wnids.txt; correct it")
        if cells[0] not in images:
            raise ConfigError(
                f"{listing}: line {place} names {cells[0]}, but {folder / 'images' / cells[0]} does not exist; unpack"
                " the archive again"
            )
        if cells[0] in found:
            raise ConfigError(f"{listing}: line {place} names {cells[0]} a second time; keep one of the lines")
        found[cells[0]] = number[cells[1]]
    missing = sorted(set(images) - set(found))
    if missing:
        raise ConfigError(
            f"{listing} has no line for {images[missing[0]]} ({len(missing)} without one); unpack the archive again"
        )
    return [(images[name], found[name]) for name in sorted(found)]


def _names(root: Path, wnids: list[str]) -> tuple[str, ...]:
    """The first name of each class in words.txt, with the wnid where two classes share it."""
    words = dict(line.partition("\t")[::2] for line in _lines(root / "words.txt"))
    first = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    times = Counter(first)
    return tuple(name if times[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(first, wnids, strict=True))
