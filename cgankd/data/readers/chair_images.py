"""The source `chairs`: rendered chairs under RC-49's protocol, kept in a cache so that nothing is rendered twice."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Dataset, make_dataset
from cgankd.data.readers.chair_shapes import Array
from cgankd.data.readers.chairs import NUM_SHAPES, RENDERER_VERSION, YAWS, render
from cgankd.data.readers.splits import capped, shuffled
from cgankd.data.regular import open_regular
from cgankd.data.store.room import Room, in_memory
from cgankd.rng import generator
from cgankd.types import LogFn, Split, silent

RESERVED_PER_ANGLE = 25
"""Shapes of each odd angle that only training may use, as many as RC-49's largest protocol takes."""
SAVE_EVERY = 2000
"""Rendered images between two writes of the cache."""


def load_chairs(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Chairs with their yaw in degrees, float32. An image is numbered angle * 49 + shape.

    Training: at each angle whose last digit is odd the first `train_per_label` shapes of a seeded order, of all those
    the first `num_train` of a seeded order. Validation: `num_val` images of odd angles, of shapes after the first 25 of
    their order. Test: `num_test` images (null = all) of all 899 angles out of the rest; neither the 25 reserved for
    training nor validation, so that the test images do not depend on how many train.

    Raises ConfigError on settings that this source cannot meet.
    """
    _check(cfg)
    chosen = choose(cfg, seed)
    numbers, place = torch.unique(torch.cat(list(chosen.values())), return_inverse=True)
    pictures = rendered(numbers, cfg.image_size, log=log, cache=cache)
    degrees = torch.from_numpy(YAWS.astype(np.float32))
    splits, start = {}, 0
    for name, rows in chosen.items():
        images = pictures[place[start : start + len(rows)]]
        splits[name] = Split(images, degrees[rows // NUM_SHAPES])
        start += len(rows)
    return make_dataset(cfg, splits, label_unit="degrees")


def choose(cfg: DataConfig, seed: int) -> dict[str, Tensor]:
    """Image numbers of "train", "val" and "test"."""
    odd_angles = torch.arange(0, len(YAWS), 2)  # YAWS starts at 0.1, so even positions have an odd last digit.
    order = torch.stack(
        [torch.randperm(NUM_SHAPES, generator=generator(seed, "chairs", "shapes", int(a))) for a in odd_angles]
    )
    number = odd_angles[:, None] * NUM_SHAPES + order
    candidates = number[:, : cfg.train_per_label or RESERVED_PER_ANGLE].flatten()
    train = shuffled(candidates, seed, "chairs", "train")
    num_val = cfg.num_val or 0
    val = shuffled(number[:, RESERVED_PER_ANGLE:].flatten(), seed, "chairs", "val")
    if num_val > len(val):
        raise ConfigError(f"data.num_val must be at most {len(val)} for the chairs, but is {num_val}")
    val = val[:num_val]
    taken = torch.zeros(len(YAWS) * NUM_SHAPES, dtype=torch.bool)
    taken[number[:, :RESERVED_PER_ANGLE]] = True
    taken[val] = True
    test = shuffled(torch.arange(len(taken)), seed, "chairs", "test")
    test = capped(test[~taken[test]], cfg.num_test)
    return {"train": capped(train, cfg.num_train), "val": val, "test": test}


def rendered(numbers: Tensor, size: int, *, log: LogFn = silent, cache: Path | None = None) -> Tensor:
    """Pictures uint8 [N, 3, size, size] of distinct image numbers [N], out of the cache folder where it has them."""
    wanted = numbers.numpy()
    path = None if cache is None else cache / f"chairs-{size}px-v{RENDERER_VERSION}.npz"
    known, pictures = _read_cache(path, size)
    missing = wanted[~np.isin(wanted, known)]
    log_every = max(1, len(missing) // 100)
    for start in range(0, len(missing), SAVE_EVERY):
        part = missing[start : start + SAVE_EVERY]
        fresh = np.empty((len(part), 3, size, size), np.uint8)
        for place, number in enumerate(part.tolist()):
            fresh[place] = render(number % NUM_SHAPES, float(YAWS[number // NUM_SHAPES]), size)
            done = start + place + 1
            if done % log_every == 0 or done == len(missing):
                log(done, {}, len(missing))
        known, pictures = np.concatenate([known, part]), np.concatenate([pictures, fresh])
        if path is not None:
            _write_cache(path, known, pictures)
    order = np.argsort(known)
    return torch.from_numpy(pictures[order[np.searchsorted(known, wanted, sorter=order)]])


def _read_cache(path: Path | None, size: int) -> tuple[Array, Array]:
    """Image numbers and pictures in the cache; none where it is missing or not whole, for it can be made again."""
    nothing = np.empty(0, np.int64), np.empty((0, 3, size, size), np.uint8)
    if path is None or not path.is_file():
        return nothing
    try:
        with open_regular(path) as raw, np.load(raw) as file:
            numbers, pictures = file["numbers"], file["pictures"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return nothing
    whole = (
        numbers.dtype == np.int64
        and pictures.dtype == np.uint8
        and pictures.shape == (len(numbers), 3, size, size)
        and len(np.unique(numbers)) == len(numbers)
    )
    return (numbers, pictures) if whole else nothing


def _write_cache(path: Path, numbers: Array, pictures: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, numbers=numbers, pictures=pictures)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check(cfg: DataConfig) -> None:
    if cfg.channels != 3:
        raise ConfigError(f"data.channels must be 3 for the chairs, which are in colour, but is {cfg.channels}")
    if cfg.train_per_label is not None and cfg.train_per_label > RESERVED_PER_ANGLE:
        raise ConfigError(
            f"data.train_per_label must be at most {RESERVED_PER_ANGLE} for the chairs, but is {cfg.train_per_label}"
        )
    if cfg.num_val is None:
        raise ConfigError("data.num_val must be set for the chairs, and data.val_per_label null")
    if cfg.test_share is not None:
        raise ConfigError("data.test_share must be null for the chairs; set data.num_test to take fewer test images")
