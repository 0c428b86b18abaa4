"""The sources `rc49` and `hdf5`: public data sets in HDF5 files, checked as our own files are before they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Dataset, make_dataset
from cgankd.data.readers.image_files import fit_arrays
from cgankd.data.readers.splits import capped, shuffled, split_parts, split_scalars
from cgankd.data.store.files import Array, all_rows, column, opening, same_length, slabs
from cgankd.data.store.room import Room, in_memory
from cgankd.rng import generator
from cgankd.types import LogFn, Split, silent

RC49_NAMES = ("images", "labels", "types", "indx_train")
RC49_FILE = "RC-49_64x64.h5"
RC49_ANGLES, RC49_CHAIRS = 899, 49
"""Angles, and images of each: one of every chair."""
RESERVED_PER_ANGLE = 25
"""Images of each odd angle that only training may use, as many as the largest protocol takes."""
PARTS = {"train": "train", "valid": "val", "test": "test"}
"""Ending of the datasets in an `hdf5` file, and the split that each one is."""
HDF5_NAMES = tuple(f"{kind}_{part}" for part in PARTS for kind in ("images", "labels"))
CURE = "fetch or write the file again"


def load_rc49(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """RC-49 (arXiv 2011.07466) in the authors' file: images [N, 3, 64, 64] uint8, labels [N] yaw in degrees 0.1..89.9.

    Training: at each angle whose last digit is odd the first `train_per_label` images of a seeded order (null = 25),
    of all those the first `num_train` of a seeded order; rows of `indx_train` alone where the file has it. Validation:
    `num_val` images of odd angles after the first 25 of their order. Test: `num_test` images (null = all) of the rest.

    Checks: no link, no outside storage, no impossible size; uint8 images, one label an image, each a tenth of a degree
    within 0.1..89.9; 49 images of each of the 899 angles. Raises ConfigError or ValueError naming the file or setting at fault.
    """
    _check_rc49(cfg)
    path = Path(cfg.root) / RC49_FILE if Path(cfg.root).is_dir() else Path(cfg.root)
    with opening(path, names=RC49_NAMES, cure=CURE) as file:
        images = column(path, file, "images", "u", 4, cure=CURE)
        labels = column(path, file, "labels", "iuf", 1, cure=CURE)
        same_length(path, images, labels)
        tenth_N = _tenths(path, all_rows(labels))
        _check_complete(path, tenth_N)
        own = np.arange(len(tenth_N))
        if "indx_train" in file:
            own = _own_rows(path, all_rows(column(path, file, "indx_train", "iuf", 1, cure=CURE)), tenth_N)
        rows = _choose_rc49(cfg, seed, tenth_N, torch.from_numpy(own))
        degrees_N = (tenth_N.double() / 10).float()
        splits = {
            name: Split(read_pixels(path, images, part, cfg, room), degrees_N[part])
            for name, part in rows.items()
            if len(part)
        }
    return make_dataset(cfg, _all_three(cfg, splits), label_unit="degrees")


def _check_rc49(cfg: DataConfig) -> None:
    if cfg.num_val is None:
        raise ConfigError("data.num_val must be set for rc49, and data.val_per_label null")
    if cfg.test_share is not None:
        raise ConfigError("data.test_share must be null for rc49; set data.num_test to take fewer test images")
    if cfg.train_per_label is not None and cfg.train_per_label > RESERVED_PER_ANGLE:
        raise ConfigError(
            f"data.train_per_label must be at most {RESERVED_PER_ANGLE} for rc49, but is {cfg.train_per_label}"
        )


def _tenths(path: Path, labels: Array) -> Tensor:
    """Angles in tenths of a degree, int64."""
    tenths = np.rint(labels.astype(np.float64) * 10)
    # NaN fails the comparison.
    wrong = np.flatnonzero(~((np.abs(labels * 10.0 - tenths) < 0.02) & (tenths >= 1) & (tenths <= 899)))
    if len(wrong):
        raise ConfigError(
            f"{path}: label {labels[wrong[0]]:g} of row {wrong[0]} is no tenth of a degree within 0.1 to 89.9; {CURE}"
        )
    return torch.from_numpy(tenths.astype(np.int64))


def _check_complete(path: Path, tenth_N: Tensor) -> None:
    found, times = torch.unique(tenth_N, return_counts=True)
    wrong = (times != RC49_CHAIRS).nonzero()[:, 0].tolist()
    if not wrong and len(found) == RC49_ANGLES:
        return
    at = f", {int(times[wrong[0]])} of them at {int(found[wrong[0]]) / 10:g} degrees" if wrong else ""
    raise ConfigError(
        f"{path} has {len(tenth_N)} images at {len(found)} angles{at}, instead of {RC49_CHAIRS} at each of {RC49_ANGLES};"
        " fetch the file again, or for a part of it write images_train and labels_train and set data.source to hdf5"
    )


def _own_rows(path: Path, rows: Array, tenth_N: Tensor) -> Array:
    """The authors' training rows. Raises ConfigError where they leave the file, repeat or have an even angle."""
    index: Array = rows.astype(np.int64)
    if (index != rows).any() or len(index) == 0 or index.min() < 0 or index.max() >= len(tenth_N):
        raise ConfigError(f"{path}: 'indx_train' names rows that the file does not have; {CURE}")
    if len(np.unique(index)) != len(index) or (tenth_N.numpy()[index] % 2 == 0).any():
        raise ConfigError(f"{path}: 'indx_train' names a row twice or an angle with an even last digit; {CURE}")
    return index


def _choose_rc49(cfg: DataConfig, seed: int, tenth_N: Tensor, own: Tensor) -> dict[str, Tensor]:
    """Row numbers of the three splits; `own` are the rows that may train."""
    odd_N = tenth_N % 2 == 1
    may_train_N = torch.zeros(len(tenth_N), dtype=torch.bool)
    may_train_N[own] = True
    reserved, train = [], []
    for tenth in torch.unique(tenth_N[odd_N & may_train_N]).tolist():
        rows = (may_train_N & (tenth_N == tenth)).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=generator(seed, "rc49", "rows", tenth))
        kept = rows[order[:RESERVED_PER_ANGLE]]
        if cfg.train_per_label is not None and len(kept) < cfg.train_per_label:
            raise ConfigError(
                f"data.train_per_label {cfg.train_per_label} is more than the {len(kept)} images of {tenth / 10} degrees"
                f" in {cfg.root!r}; lower it"
            )
        reserved.append(kept)
        train.append(capped(kept, cfg.train_per_label))
    left_N = torch.ones(len(tenth_N), dtype=torch.bool)
    left_N[torch.cat(reserved) if reserved else own[:0]] = False
    val = shuffled((left_N & odd_N).nonzero()[:, 0], seed, "rc49", "val")
    if len(val) < (cfg.num_val or 0):
        raise ConfigError(f"data.num_val must be at most {len(val)} for {cfg.root!r}, but is {cfg.num_val}")
    val = capped(val, cfg.num_val)
    left_N[val] = False
    test = capped(shuffled(left_N.nonzero()[:, 0], seed, "rc49", "test"), cfg.num_test)
    candidates = torch.cat(train) if train else own[:0]
    return {"train": capped(shuffled(candidates, seed, "rc49", "train"), cfg.num_train), "val": val, "test": test}


def load_hdf5_classes(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """`images_train`, `labels_train` and the same of `test` and `valid` where they are; labels are whole numbers.

    Images are uint8 [N, C, H, W] or [N, H, W, C], told by the place of 1 or 3. Without a test part `test_share` is set
    aside, without a valid part `val_per_label` or `num_val` images of training. Classes are the distinct training
    labels. Checks: no link, no outside storage, no impossible size, uint8 images, one label an image.
    Raises ConfigError or ValueError naming the file and dataset at fault.
    """
    label_N, parts = _labels(Path(cfg.root))
    if label_N.is_floating_point():
        raise ConfigError(f"{cfg.root}: labels have fractions; set data.task to scalar, or write whole numbers")
    known = torch.unique(label_N[[part == "train" for part in parts]])
    strange = label_N[~torch.isin(label_N, known)]
    if len(strange):
        raise ConfigError(f"{cfg.root}: label {int(strange[0])} has no training image; add one or remove the label")
    if len(known) < 2:
        raise ConfigError(f"{cfg.root}: 'labels_train' has {len(known)} class; there must be at least two")
    label_N = torch.searchsorted(known, label_N)
    names = tuple(map(str, known.tolist()))
    rows = split_parts(label_N, parts, names, cfg, seed)
    return _read_hdf5(cfg, label_N, parts, rows, names, room)


def load_hdf5_scalars(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """The file of `load_hdf5_classes` with numbers as labels; what has no part of its own is taken out of training
    evenly over the labels.
    """
    label_N, parts = _labels(Path(cfg.root))
    label_N = label_N.float()
    if not bool(torch.isfinite(label_N).all()):
        raise ConfigError(f"{cfg.root}: a label is no finite number; correct or remove its row")
    rows = split_scalars(label_N, cfg, seed, part_of=parts)
    return _read_hdf5(cfg, label_N, parts, rows, (), room)


def _labels(path: Path) -> tuple[Tensor, list[str]]:
    """Labels [N] of all parts in the order of PARTS, int64 or float64, and the split of each."""
    labels, parts = [], []
    with opening(path, names=HDF5_NAMES, cure=CURE) as file:
        for ending, part in PARTS.items():
            if part != "train" and f"images_{ending}" not in file and f"labels_{ending}" not in file:
                continue
            images = column(path, file, f"images_{ending}", "u", 4, cure=CURE)
            own = column(path, file, f"labels_{ending}", "iuf", 1, cure=CURE)
            same_length(path, images, own)
            labels.append(all_rows(own))
            parts += [part] * len(own)
    joined = np.concatenate(labels)
    whole = joined.dtype.kind in "iu" or bool((joined == np.floor(joined)).all())
    return torch.from_numpy(joined.astype(np.int64 if whole else np.float64)), parts


def _read_hdf5(
    cfg: DataConfig, label_N: Tensor, parts: list[str], rows: dict[str, Tensor], names: tuple[str, ...], room: Room
) -> Dataset:
    path, splits = Path(cfg.root), {}
    first = {part: parts.index(part) for part in set(parts)}
    with opening(path, names=HDF5_NAMES, cure=CURE) as file:
        for name, part in rows.items():
            if len(part) == 0:
                continue
            home = parts[int(part[0])]  # All rows of a split come from one part of the file.
            ending = next(ending for ending, own in PARTS.items() if own == home)
            images = column(path, file, f"images_{ending}", "u", 4, cure=CURE)
            splits[name] = Split(read_pixels(path, images, part - first[home], cfg, room), label_N[part])
    return make_dataset(cfg, _all_three(cfg, splits), label_unit="" if names else "units", class_names=names)


def _all_three(cfg: DataConfig, splits: dict[str, Split]) -> dict[str, Split]:
    for name in ("train", "val", "test"):
        if name not in splits:
            raise ConfigError(
                f"data.root {cfg.root!r} leaves no {name} images; give more images or change data.num_val,"
                " data.val_per_label or data.test_share"
            )
    return {name: splits[name] for name in ("train", "val", "test")}


def read_pixels(path: Path, images: Any, rows: Tensor, cfg: DataConfig, room: Room) -> Tensor:
    """Rows of an image dataset as uint8 [B, C, S, S], made to fit slab by slab; only those rows are read."""
    by_pixel = images.shape[1] not in (1, 3) and images.shape[3] in (1, 3)
    if not by_pixel and images.shape[1] not in (1, 3):
        raise ConfigError(
            f"{path}: dataset {images.name[1:]!r} has the shape {images.shape}, neither [N, C, H, W] nor [N, H, W, C] with"
            " 1 or 3 channels; write it so"
        )
    out = room((len(rows), cfg.channels, cfg.image_size, cfg.image_size))
    for places, part in slabs(images, rows.numpy()):
        pixels = torch.from_numpy(part)
        out[torch.from_numpy(places)] = fit_arrays(pixels.permute(0, 3, 1, 2).contiguous() if by_pixel else pixels, cfg)
    return out
