"""Decoding of image files, and images that come as arrays made to fit the settings."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from cgankd.config import ConfigError, DataConfig
from cgankd.data.store.room import Room, in_memory
from cgankd.types import ImageShape, LogFn

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
READ_AHEAD = 64
"""Files a thread is given ahead of those already in the tensor, so that memory stays that of the tensor."""
ROWS_AT_A_TIME = 2048
GREY_WEIGHTS = (0.299, 0.587, 0.114)
MAX_PIXELS = 2**26
"""Largest image that is decoded (67 megapixels); the size is known from the header, before any pixel."""


def read_images(
    paths: Sequence[Path],
    cfg: ImageShape,
    log: LogFn,
    *,
    crop: bool = False,
    threads: int | None = None,
    room: Room = in_memory,
    place_N: Tensor | None = None,
) -> tuple[Tensor, int]:
    """Images uint8 [N, C, S, S] with C = `cfg.channels`, S = `cfg.image_size`, and how many had to be resized.

    Square images larger than S are averaged down to it. With `crop` the middle square of any image is taken and
    brought to S, smaller ones by bicubic enlargement. Files are decoded in the order given, by `threads` threads (null =
    as many as torch has), at most `threads` x READ_AHEAD at a time, into a tensor of `room`, where file i becomes row i
    or `place_N`[i]. Raises ConfigError naming the first file, in the order given, that is smaller or not square without
    `crop`, of more than 8 bits, or cannot be decoded.
    """
    images = room((len(paths), cfg.channels, cfg.image_size, cfg.image_size))
    places = list(range(len(paths))) if place_N is None else place_N.tolist()
    num_resized, done = 0, 0
    workers = threads or torch.get_num_threads()
    log_every = max(1, len(paths) // 100)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), workers * READ_AHEAD):
            part = paths[start : start + workers * READ_AHEAD]
            for picture, resized in pool.map(partial(_read, cfg=cfg, crop=crop), part):
                images[places[done]] = torch.from_numpy(picture)
                num_resized, done = num_resized + resized, done + 1
                if done % log_every == 0 or done == len(paths):
                    log(done, {}, len(paths))
    return images, num_resized


def _read(path: Path, cfg: ImageShape, crop: bool) -> tuple[np.ndarray[Any, Any], bool]:
    size = cfg.image_size
    try:
        with Image.open(path) as file:
            _check(path, file, cfg, crop)
            image = ImageOps.exif_transpose(file).convert("L" if cfg.channels == 1 else "RGB")
    except ConfigError:
        raise
    except Exception as problem:  # Pillow's decoders raise many kinds; each means that this file is no good.
        raise ConfigError(
            f"{path} cannot be read as an image ({type(problem).__name__}: {problem}); replace it or remove it"
        ) from None
    resized = image.size != (size, size)
    if crop and image.width != image.height:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if image.width != size:
        shrinking = image.width > size
        image = image.resize((size, size), Image.Resampling.BOX if shrinking else Image.Resampling.BICUBIC)
    return np.array(image).reshape(size, size, cfg.channels).transpose(2, 0, 1), resized


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


def _check(path: Path, file: Image.Image, cfg: ImageShape, crop: bool) -> None:
    width, height = file.size
    size = cfg.image_size
    if width * height > MAX_PIXELS:
        raise ConfigError(
            f"{path} has {width}x{height} pixels, more than is read; make it smaller, {size}x{size} is enough"
        )
    if width != height and not crop:
        raise ConfigError(
            f"{path} is {width}x{height}, but images must be square; crop or pad it, to {size}x{size} or more"
        )
    if width < size and not crop:
        raise ConfigError(
            f"{path} is {width}x{height}, smaller than data.image_size {size}; lower that or enlarge the image"
        )
    if file.mode.startswith(("I", "F")):
        raise ConfigError(f"{path} has more than 8 bits a channel (mode {file.mode}); save it with 8 bits")
