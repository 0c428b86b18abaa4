"""`data.unlabelled`: images without labels, a folder of any depth or an HDF5 file, by the rules of all other images; or what
the caps on training images leave out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cgankd.config import ConfigError, DataConfig
from cgankd.config.data import LISTS, REST
from cgankd.data.batches import chunks
from cgankd.data.dataset import Account
from cgankd.data.readers.groups import inside_paths
from cgankd.data.readers.hdf5_sets import read_pixels
from cgankd.data.readers.image_files import done_lines, read_images
from cgankd.data.readers.image_folder import joined, middle_squares, without_broken
from cgankd.data.readers.sources import load
from cgankd.data.readers.walk import left_out_lines, walk
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
    path = Path(cfg.unlabelled)
    if path.is_dir():
        return _folder(path, cfg, seed, log, room)
    if not path.exists():
        raise ConfigError(f"data.unlabelled {cfg.unlabelled!r} does not exist; name a folder or an HDF5 file, or null")
    if path.suffix.lower() not in HDF5:
        raise ConfigError(
            f"data.unlabelled {cfg.unlabelled!r} must be a folder of images or an HDF5 file ({' or '.join(HDF5)})"
        )
    return _hdf5(path, cfg, seed, room)


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


def _folder(path: Path, cfg: DataConfig, seed: int, log: LogFn, room: Room) -> Unlabelled:
    found = walk(path)
    if not found.images:
        raise ConfigError(f"data.unlabelled {cfg.unlabelled!r} has no images; put some into it, or use null")
    chosen = [found.images[row] for row in _chosen(len(found.images), cfg, seed).tolist()]
    kept, skipped = without_broken(chosen, cfg)
    paths = [chosen[row] for row in kept]
    if not paths:
        raise ConfigError(f"data.unlabelled {cfg.unlabelled!r} has no image that can be used (data.skip_broken)")
    rules = middle_squares(cfg) if cfg.source in SIZED else cfg
    images, counts = read_images(paths, rules, log, room=room)
    done, lines = done_lines(counts, len(paths))
    said = Account({}, tuple(left_out_lines(found.left, path)))
    return Unlabelled(images, list(inside_paths(paths, path)), joined(said, skipped, Account(done, lines)))


def _hdf5(path: Path, cfg: DataConfig, seed: int, room: Room) -> Unlabelled:
    try:
        with opening(path, names=("images",), cure=WRITE_AGAIN) as file:
            images = column(path, file, "images", "u", 4, cure=WRITE_AGAIN)
            rows = _chosen(len(images), cfg, seed)
            pixels = read_pixels(path, images, rows, replace(cfg, root=str(path)), room)
    except ConfigError:
        raise
    except ValueError as problem:  # What the checks of the file say; they do not know which setting names it.
        raise ConfigError(f"data.unlabelled {problem}") from None
    return Unlabelled(pixels, [f"row {row}" for row in rows.tolist()])
