"""Decoding of image files, and images that come as arrays made to fit the settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.config import ConfigError, DataConfig
from cgankd.data.readers.decode import SAID, ImageRules, read_image
from cgankd.data.store.room import Room, in_memory
from cgankd.types import LogFn

READ_AHEAD = 64
"""Files a thread is given ahead of those already in the tensor, so that memory stays that of the tensor."""
ROWS_AT_A_TIME = 2048
GREY_WEIGHTS = (0.299, 0.587, 0.114)


def read_images(
    paths: Sequence[Path],
    cfg: ImageRules,
    log: LogFn,
    *,
    threads: int | None = None,
    room: Room = in_memory,
    place_N: Tensor | None = None,
) -> tuple[Tensor, Counter[str]]:
    """Images uint8 [N, C, S, S] with C = `cfg.channels`, S = `cfg.image_size`, and how many of them each name of
    decode.SAID is true of.

    Larger images are averaged down to S, smaller ones enlarged by cubic interpolation where the rules allow that. Files
    are decoded in the order given, by `threads` threads (null = as many as torch has), at most `threads` x READ_AHEAD at
    a time, into a tensor of `room`, where file i becomes row i or `place_N`[i]. Raises ConfigError naming the first file,
    in the order given, that the rules do not allow or that cannot be decoded.
    """
    images = room((len(paths), cfg.channels, cfg.image_size, cfg.image_size))
    places = list(range(len(paths))) if place_N is None else place_N.tolist()
    counts: Counter[str] = Counter()
    done = 0
    workers = threads or torch.get_num_threads()
    log_every = max(1, len(paths) // 100)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), workers * READ_AHEAD):
            part = paths[start : start + workers * READ_AHEAD]
            for picture, notes in pool.map(partial(read_image, rules=cfg), part):
                images[places[done]] = torch.from_numpy(picture)
                counts.update(notes)
                done += 1
                if done % log_every == 0 or done == len(paths):
                    log(done, {}, len(paths))
    return images, counts


def done_lines(counts: Counter[str], num: int) -> tuple[dict[str, float], tuple[str, ...]]:
    """What was done to `num` images beside bringing them to their size, as counts for metrics and in words."""
    done = {name: float(counts[name]) for name in SAID if counts[name] and name != "images_resized"}
    return done, tuple(f"{count:.0f} of {num} images {SAID[name]}" for name, count in done.items())


def problems(paths: Sequence[Path], cfg: ImageRules, *, threads: int | None = None) -> list[str]:
    """For each file why it cannot be used, or "" where it can."""
    with ThreadPoolExecutor(threads or torch.get_num_threads()) as pool:
        return list(pool.map(partial(_problem, rules=cfg), paths))


def _problem(path: Path, rules: ImageRules) -> str:
    try:
        read_image(path, rules)
    except ConfigError as problem:
        return str(problem)
    return ""


def fit_arrays(images_NCHW: Tensor, cfg: DataConfig) -> Tensor:
    """Images [N, 3 or 1, S0, S0] of an array file as uint8 [N, C, S, S] of the config.

    S0 is S or a whole multiple of it (averaged); grey = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).
    Raises ConfigError naming data.image_size or data.channels where that cannot be.
    """
    channels, height, width = images_NCHW.shape[1:]
    size = cfg.image_size
    if height != width or height % size:
        raise ConfigError(
            f"data.image_size must divide the {height}x{width} of the square images in {cfg.root!r}, but is {size}"
        )
    if channels not in (cfg.channels, 3):
        raise ConfigError(f"data.channels must be {channels} for the images in {cfg.root!r}, but is {cfg.channels}")
    if (channels, height) == (cfg.channels, size):
        return images_NCHW
    out = torch.empty((len(images_NCHW), cfg.channels, size, size), dtype=torch.uint8)
    for start in range(0, len(images_NCHW), ROWS_AT_A_TIME):
        part = images_NCHW[start : start + ROWS_AT_A_TIME].float()
        if channels != cfg.channels:
            part = (part * torch.tensor(GREY_WEIGHTS)[:, None, None]).sum(1, keepdim=True)
        if height != size:
            part = F.avg_pool2d(part, height // size)
        out[start : start + ROWS_AT_A_TIME] = part.round().clamp(0, 255).to(torch.uint8)
    return out
