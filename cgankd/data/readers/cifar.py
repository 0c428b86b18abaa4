"""The sources `cifar10` and `cifar100` (Krizhevsky 2009): 60,000 colour images of 32x32 pixels, 50,000 for training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Dataset, make_dataset
from cgankd.data.readers.class_folders import list_folder
from cgankd.data.readers.image_files import fit_arrays
from cgankd.data.readers.image_folder import read_listing
from cgankd.data.readers.plain_pickle import PlainPickleError, read_plain_pickle
from cgankd.data.readers.splits import split_parts
from cgankd.data.regular import read_bytes
from cgankd.data.store.room import Room, in_memory
from cgankd.types import LogFn, Split, silent

PIXELS = 3 * 32 * 32
MAX_FILE = 2**28
"""Bytes of the largest file of the archives that is read; theirs have at most 184,000,000."""
CURE = "fetch the archive again"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Edition:
    """One of the two sets: its public archive, its files in both layouts, and what there must be of everything."""

    num_classes: int
    url: str
    archive: str
    archive_md5: str
    py_folder: str
    py_train: Mapping[str, str]
    """File -> md5, as torchvision lists them."""
    py_test: Mapping[str, str]
    py_meta: tuple[str, str]
    label_key: str
    names_key: str
    bin_folder: str
    bin_train: tuple[str, ...]
    bin_test: tuple[str, ...]
    bin_names: str
    label_bytes: int
    """Label bytes before the pixels of a row; the last one is the label (CIFAR-100 has the coarse label first)."""
    num_train: int = 50_000
    num_test: int = 10_000


EDITIONS: dict[str, Edition] = {
    "cifar10": Edition(
        num_classes=10,
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        archive="cifar-10-python.tar.gz",
        archive_md5="c58f30108f718f92721af3b95e74349a",
        py_folder="cifar-10-batches-py",
        py_train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        py_test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        py_meta=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
        label_key="labels",
        names_key="label_names",
        bin_folder="cifar-10-batches-bin",
        bin_train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        bin_test=("test_batch.bin",),
        bin_names="batches.meta.txt",
        label_bytes=1,
    ),
    "cifar100": Edition(
        num_classes=100,
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        archive="cifar-100-python.tar.gz",
        archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
        py_folder="cifar-100-python",
        py_train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        py_test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        py_meta=("meta", "7973b15100ade9c7d40fb424638fde48"),
        label_key="fine_labels",
        names_key="fine_label_names",
        bin_folder="cifar-100-binary",
        bin_train=("train.bin",),
        bin_test=("test.bin",),
        bin_names="fine_label_names.txt",
        label_bytes=2,
    ),
}


def load_cifar(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """CIFAR-10 or CIFAR-100 out of a folder with the Python archive, the binary archive or trees train/ and test/ of
    image files. The official test images are the test split; validation is taken out of training.

    Checks: the md5 of every file of the Python archive against the public list; exact file sizes, counts and label
    ranges of the binary one; 10 or 100 class folders in train/ and in test/ of a tree, whose images are counted: a part
    of the set will do, and the note `images_missing` says so. Raises ConfigError naming the file or setting at fault.
    """
    edition, root = EDITIONS[cfg.source], Path(cfg.root)
    if (root / edition.py_folder).is_dir():
        return _split_arrays(cfg, seed, *_read_py(root / edition.py_folder, edition))
    if (root / edition.bin_folder).is_dir():
        return _split_arrays(cfg, seed, *_read_bin(root / edition.bin_folder, edition))
    if all((root / part).is_dir() for part in ("train", "test")):
        return _read_tree(cfg, seed, edition, log, room)
    raise ConfigError(
        f"data.root {cfg.root!r} has no {edition.py_folder}, no {edition.bin_folder} and no train with test; put one"
        " there, or set data.download: true to fetch the official archive"
    )


def is_there(cfg: DataConfig) -> bool:
    """Whether data.root holds one of the three layouts, so that nothing need be fetched."""
    edition, root = EDITIONS[cfg.source], Path(cfg.root)
    return any((root / name).is_dir() for name in (edition.py_folder, edition.bin_folder, "train", "test"))


def _split_arrays(
    cfg: DataConfig, seed: int, images: Array, labels: Array, parts: list[str], names: tuple[str, ...]
) -> Dataset:
    label_N = torch.from_numpy(labels.astype(np.int64))
    rows = split_parts(label_N, parts, names, cfg, seed)
    pixels: Tensor = torch.from_numpy(images)
    splits = {name: Split(fit_arrays(pixels[part], cfg), label_N[part]) for name, part in rows.items()}
    return make_dataset(cfg, splits, label_unit="", class_names=names, notes={"images_found": float(len(labels))})


def _read_tree(cfg: DataConfig, seed: int, edition: Edition, log: LogFn, room: Room) -> Dataset:
    listing = list_folder(cfg.root)
    found = len(listing.paths)
    for part in ("train", "test"):
        classes = {label for label, own in zip(listing.labels, listing.parts, strict=True) if own == part}
        if len(classes) != edition.num_classes:
            raise ConfigError(
                f"{Path(cfg.root) / part} has {len(classes)} class folders ({found} images were found under"
                f" {cfg.root!r}), but {cfg.source} has {edition.num_classes}; complete it, or set data.source to image-folder"
            )
    missing = max(0, edition.num_train + edition.num_test - found)
    notes = {"images_found": float(found), "images_missing": float(missing)}
    return read_listing(replace(listing, notes=notes), cfg, seed, log, room)


def _read_py(folder: Path, edition: Edition) -> tuple[Array, Array, list[str], tuple[str, ...]]:
    meta = _plain(folder / edition.py_meta[0], edition.py_meta[1])
    names = tuple(str(name) for name in _entry(meta, edition.names_key, list, folder / edition.py_meta[0]))
    images, labels, parts = [], [], []
    for part, files in (("train", edition.py_train), ("test", edition.py_test)):
        for name, md5 in files.items():
            batch = _plain(folder / name, md5)
            data = _entry(batch, "data", np.ndarray, folder / name)
            label = np.array(_entry(batch, edition.label_key, list, folder / name), np.int64)
            if data.shape != (len(label), PIXELS):
                raise ConfigError(f"{folder / name} has images of shape {data.shape} for {len(label)} labels; {CURE}")
            images.append(data)
            labels.append(label)
            parts += [part] * len(label)
    return _joined(folder, images, labels, parts, names, edition)


def _plain(path: Path, md5: str) -> dict[str, Any]:
    """The dict in a file of the Python archive, whose md5 is checked before anything in it is looked at."""
    data = _bytes(path)
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ConfigError(f"{path} has the md5 {found} instead of {md5}, so it is not the public file; {CURE}")
    try:
        held = read_plain_pickle(data)
    except PlainPickleError as problem:
        raise ConfigError(f"{path} is no plain data: {problem}; {CURE}") from None
    if not isinstance(held, dict):
        raise ConfigError(f"{path} holds a {type(held).__name__} instead of a dict; {CURE}")
    return held


def _entry(held: dict[str, Any], key: str, kind: type[Any], path: Path) -> Any:
    if not isinstance(held.get(key), kind):
        raise ConfigError(f"{path} has no {kind.__name__} {key!r}; {CURE}")
    return held[key]


def _read_bin(folder: Path, edition: Edition) -> tuple[Array, Array, list[str], tuple[str, ...]]:
    text = _bytes(folder / edition.bin_names).decode("utf-8", errors="replace")
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    width = edition.label_bytes + PIXELS
    images, labels, parts = [], [], []
    for part, files, total in (
        ("train", edition.bin_train, edition.num_train),
        ("test", edition.bin_test, edition.num_test),
    ):
        for name in files:
            data, rows = _bytes(folder / name), total // len(files)
            if len(data) != rows * width:
                raise ConfigError(
                    f"{folder / name} has {len(data)} bytes instead of {rows * width} ({rows} images of {width}); {CURE}"
                )
            table = np.frombuffer(data, np.uint8).reshape(rows, width)
            labels.append(table[:, edition.label_bytes - 1].astype(np.int64))
            images.append(table[:, edition.label_bytes :])
            parts += [part] * rows
    return _joined(folder, images, labels, parts, names, edition)


def _bytes(path: Path) -> bytes:
    try:
        return read_bytes(path, MAX_FILE)
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read ({problem.strerror}); {CURE}") from None


def _joined(
    folder: Path, images: list[Array], labels: list[Array], parts: list[str], names: tuple[str, ...], edition: Edition
) -> tuple[Array, Array, list[str], tuple[str, ...]]:
    """All parts in one; rows are planes R, G, B of 32x32. Raises ConfigError on a wrong number of images or classes."""
    label_N = np.concatenate(labels)
    if len(names) != edition.num_classes or set(label_N.tolist()) != set(range(edition.num_classes)):
        raise ConfigError(
            f"{folder} names {len(names)} classes and has images of {len(set(label_N.tolist()))}, but there must be"
            f" {edition.num_classes}; {CURE}"
        )
    counts = {part: parts.count(part) for part in ("train", "test")}
    if counts != {"train": edition.num_train, "test": edition.num_test}:
        raise ConfigError(
            f"{folder} has {counts['train']} training and {counts['test']} test images instead of {edition.num_train}"
            f" and {edition.num_test}; {CURE}"
        )
    return np.concatenate(images).reshape(-1, 3, 32, 32), label_N, parts, names
