"""`data.unlabelled`: images without labels, a folder of any depth or an HDF5 file, by the rules of all other images; or what
the caps on training images leave out.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgankd.config import ConfigError, DataConfig
from cgankd.config.data import LISTS, REST
from cgankd.data.batches import chunks
from cgankd.data.dataset import Account
from cgankd.data.readers.class_folders import list_folder
from cgankd.data.readers.groups import inside_paths
from cgankd.data.readers.hdf5_sets import read_pixels
from cgankd.data.readers.image_files import done_lines, read_images
from cgankd.data.readers.image_folder import joined, middle_squares, without_broken
from cgankd.data.readers.sources import load
from cgankd.data.readers.walk import Found, left_out_lines, walk
from cgankd.data.store.files import WRITE_AGAIN, column, opening
from cgankd.data.store.room import Room, in_memory
from cgankd.rng import generator
from cgankd.types import Images, LogFn, silent

HDF5 = (".h5", ".hdf5")
SIZED = (*LISTS, "tiny-imagenet", "imagenet100")
"""Sources whose files are of many sizes, of which the middle square is taken unless data.fit says otherwise."""
ROWS = 1024
"""Images looked at and copied at a time."""


@dataclass(frozen=True)
class Unlabelled:
    """Images uint8 [U, C, S, S] in the order of their names, and what is to be said of them."""

    images: Images
    names: list[str]
    account: Account = Account()

    def __len__(self) -> int:
        return len(self.names)


def read_unlabelled(cfg: DataConfig, seed: int, *, log: LogFn = silent, room: Room = in_memory) -> Unlabelled:
    """The images of data.unlabelled, at most data.num_unlabelled of them (a seeded subset); none where it is null.

    An HDF5 file holds them as `images` uint8 [U, C, H, W] or [U, H, W, C]; other datasets in it are not looked at. Raises
    ConfigError (a ValueError) naming the file at fault and the cure.
    """
    if cfg.unlabelled is None:
        return Unlabelled(torch.empty((0, cfg.channels, cfg.image_size, cfg.image_size), dtype=torch.uint8), [])
    path = _place(cfg.unlabelled)
    return _folder(path, cfg, seed, log, room) if path.is_dir() else _hdf5(path, cfg, seed, room)


def find_unlabelled(cfg: DataConfig) -> int | None:
    """How many images data.unlabelled names, before any is decoded; None where it is null or rest.

    Raises ConfigError naming the file at fault and the cure: what this refuses would fail `read_unlabelled`, or spoil the
    labelled images.
    """
    if cfg.unlabelled is None or cfg.unlabelled == REST:
        return None
    path = _place(cfg.unlabelled)
    if path.is_dir():
        _check_apart(path, cfg)
        return len(_found(path, cfg).images)
    with _checked(path, cfg) as images:
        return len(images)


def _place(text: str) -> Path:
    """Where data.unlabelled is: a folder, or a file with the name of an HDF5 file."""
    path = Path(text)
    if not path.exists():
        raise ConfigError(f"data.unlabelled {text!r} does not exist; name a folder or an HDF5 file, or null")
    if not path.is_dir() and path.suffix.lower() not in HDF5:
        raise ConfigError(f"data.unlabelled {text!r} must be a folder of images or an HDF5 file ({' or '.join(HDF5)})")
    return path


def _check_apart(path: Path, cfg: DataConfig) -> None:
    """Raise ConfigError where the unlabelled images are the labelled ones, or make a class of the labelled folder."""
    place, root = (Path(os.path.realpath(of)) for of in (path, cfg.root))
    capped = any(cap is not None for cap in (cfg.train_per_label, cfg.num_train, cfg.num_test))
    if place == root and not capped:
        raise ConfigError(
            f"data.unlabelled {cfg.unlabelled!r} is the folder of the labelled images (data.root); move the images without"
            " labels out of it into a folder of their own and name that, or use null"
        )
    if cfg.source != "image-folder" or place == root or not place.is_relative_to(root):
        return
    try:
        labelled = list_folder(cfg.root).paths
    except ConfigError:
        return  # said where the labelled images are read
    if any(Path(os.path.realpath(own)).is_relative_to(place) for own in labelled):
        raise ConfigError(
            f"data.unlabelled {cfg.unlabelled!r} lies inside the labelled images in data.root {cfg.root!r}, where folders are"
            " classes and its images have the labels of these; move it out of there"
        )


def read_rest(
    cfg: DataConfig, seed: int, train: Images, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Unlabelled:
    """The training images that train_per_label, num_train and imbalance leave out, without labels, at most num_unlabelled.

    `train` are those that are left in. The source is read once more: without these caps its training images are the same and
    others, and neither validation nor test changes. Raises ConfigError where none is left out.
    """
    uncapped = replace(
        cfg,
        train_per_label=None,
        num_train=None,
        imbalance=None,
        replicate_to=None,
        unlabelled=None,
        num_unlabelled=None,
    )
    whole = load(uncapped, seed, log=log, cache=cache, room=room)
    labelled = Counter(_digests(train))
    rest = []
    for row, digest in enumerate(_digests(whole.train.images)):
        if labelled[digest] > 0:
            labelled[digest] -= 1
        else:
            rest.append(row)
    if not rest:
        raise ConfigError(
            f"data.unlabelled is {REST}, but all {len(whole.train)} training images of data.source {cfg.source} are labelled;"
            " lower data.train_per_label or data.num_train, name a folder, or use null"
        )
    chosen = torch.tensor(rest)[_chosen(len(rest), cfg, seed)]
    images = room((len(chosen), *whole.train.images.shape[1:]))
    for start in range(0, len(chosen), ROWS):
        rows = chosen[start : start + ROWS]
        images[start : start + len(rows)] = whole.train.images[rows]
    names = whole.files.get("train") or [f"training image {row}" for row in range(len(whole.train))]
    return Unlabelled(images, [names[row] for row in chosen.tolist()])


def _digests(images: Images) -> Iterator[bytes]:
    """A digest of the pixels of each image."""
    for part in chunks(images, ROWS):
        yield from (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in part.numpy())


def _chosen(num: int, cfg: DataConfig, seed: int) -> torch.Tensor:
    """Which of so many images are taken, in ascending order."""
    most = cfg.num_unlabelled
    if most is None or most >= num:
        return torch.arange(num)
    return torch.randperm(num, generator=generator(seed, "unlabelled"))[:most].sort().values


def _found(path: Path, cfg: DataConfig) -> Found:
    """The images of a folder. Raises ConfigError where it has none."""
    found = walk(path)
    if not found.images:
        raise ConfigError(f"data.unlabelled {cfg.unlabelled!r} has no images; put some into it, or use null")
    return found


def _folder(path: Path, cfg: DataConfig, seed: int, log: LogFn, room: Room) -> Unlabelled:
    found = _found(path, cfg)
    chosen = [found.images[row] for row in _chosen(len(found.images), cfg, seed).tolist()]
    kept, skipped = without_broken(chosen, cfg)
    paths = [chosen[row] for row in kept]
    if not paths:
        raise ConfigError(f"data.unlabelled {cfg.unlabelled!r} has no image that can be used (data.skip_broken)")
    rules = middle_squares(cfg) if cfg.source in SIZED else cfg
    try:
        images, counts = read_images(paths, rules, log, room=room)
    except ConfigError as problem:  # The readers of image files do not know which setting names them.
        others = (
            "" if cfg.skip_broken or cfg.source in LISTS else " (data.skip_broken leaves out all that cannot be used)"
        )
        raise ConfigError(f"data.unlabelled {cfg.unlabelled!r}: {problem}{others}") from None
    done, lines = done_lines(counts, len(paths))
    said = Account({}, tuple(left_out_lines(found.left, path)))
    return Unlabelled(images, list(inside_paths(paths, path)), joined(said, skipped, Account(done, lines)))


def _hdf5(path: Path, cfg: DataConfig, seed: int, room: Room) -> Unlabelled:
    with _checked(path, cfg) as images:
        rows = _chosen(len(images), cfg, seed)
        own = min(cfg.channels, _sides(images.shape)[0])
        pixels = read_pixels(path, images, rows, replace(cfg, root=str(path), channels=own), room)
    if own != cfg.channels:  # Grey images among ones in colour: three equal channels, as of grey files.
        grey, pixels = pixels, room((len(rows), cfg.channels, *pixels.shape[2:]))
        for start in range(0, len(rows), ROWS):
            pixels[start : start + ROWS] = grey[start : start + ROWS]
    return Unlabelled(pixels, [f"row {row}" for row in rows.tolist()])


@contextmanager
def _checked(path: Path, cfg: DataConfig) -> Iterator[Any]:
    """The dataset `images` of a file, which can be read as it is. Raises ConfigError naming setting, file and cure."""
    try:
        with opening(path, names=("images",), cure=WRITE_AGAIN) as file:
            images = column(path, file, "images", "iufb", None, cure=WRITE_AGAIN)
            wrong = _wrong(images, cfg.image_size)
            if wrong:
                raise ConfigError(f"data.unlabelled {cfg.unlabelled!r}: dataset 'images' {wrong}")
            yield images
    except ConfigError:
        raise
    except ValueError as problem:  # What the checks of the file say; they do not know which setting names it.
        raise ConfigError(f"data.unlabelled {problem}") from None


def _wrong(images: Any, size: int) -> str:
    """What stands against a dataset of images, in words that go on a sentence, with the cure; empty where nothing does."""
    if images.ndim != 4:
        also = ", of grey ones with 1 for C" if images.ndim == 3 else ""
        return f"has the shape {images.shape}; write it as [U, C, H, W] or [U, H, W, C]{also}"
    if images.dtype != np.uint8:
        return f"has the type {images.dtype}; bring its values to 0 (black) to 255 (white) and write it as uint8"
    if len(images) == 0:
        return "has no images; put some into it, or use null"
    channels, height, width = _sides(images.shape)
    if channels not in (1, 3):
        return (
            f"has the shape {images.shape}, neither [U, C, H, W] nor [U, H, W, C] with 1 or 3 channels; write it so, without a"
            " channel of transparency"
        )
    if height != width or height % size or height == 0:
        return (
            f"has images of {height}x{width}, but they must be square with sides of {size} (data.image_size) or a multiple of"
            " it; write them so, or name a folder of image files, which are brought to that size"
        )
    return ""


def _sides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of images in either layout."""
    by_pixel = shape[1] not in (1, 3) and shape[3] in (1, 3)
    return (shape[3], shape[1], shape[2]) if by_pixel else (shape[1], shape[2], shape[3])
