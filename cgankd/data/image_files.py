"""Decoding of the user's own image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cgankd.config import ConfigError
from cgankd.types import ImageShape, LogFn

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 2**26
"""Largest image that is decoded (67 megapixels); the size is known from the header, before any pixel."""


def read_images(paths: Sequence[Path], cfg: ImageShape, log: LogFn) -> tuple[Tensor, int]:
    """Images uint8 [N, C, S, S] with C = `cfg.channels`, S = `cfg.image_size`, and how many had to be made smaller.

    Square images larger than S are averaged down to it. Raises ConfigError naming the file where it is smaller, not
    square, of more than 8 bits, or cannot be decoded.
    """
    images = torch.empty((len(paths), cfg.channels, cfg.image_size, cfg.image_size), dtype=torch.uint8)
    num_resized = 0
    log_every = max(1, len(paths) // 100)
    for row, path in enumerate(paths):
        picture, resized = _read(path, cfg)
        images[row] = torch.from_numpy(picture)
        num_resized += resized
        if (row + 1) % log_every == 0 or row + 1 == len(paths):
            log(row + 1, {}, len(paths))
    return images, num_resized


def _read(path: Path, cfg: ImageShape) -> tuple[np.ndarray[Any, Any], bool]:
    try:
        with Image.open(path) as file:
            _check(path, file, cfg)
            image = ImageOps.exif_transpose(file).convert("L" if cfg.channels == 1 else "RGB")
    except ConfigError:
        raise
    except Exception as problem:  # Pillow's decoders raise many kinds; each means that this file is no good.
        raise ConfigError(
            f"{path} cannot be read as an image ({type(problem).__name__}: {problem}); replace it or remove it"
        ) from None
    resized = image.width > cfg.image_size
    if resized:
        image = image.resize((cfg.image_size, cfg.image_size), Image.Resampling.BOX)
    pixels = np.array(image)
    return pixels.reshape(cfg.image_size, cfg.image_size, cfg.channels).transpose(2, 0, 1), resized


def _check(path: Path, file: Image.Image, cfg: ImageShape) -> None:
    width, height = file.size
    size = cfg.image_size
    if width * height > MAX_PIXELS:
        raise ConfigError(
            f"{path} has {width}x{height} pixels, more than is read; make it smaller, {size}x{size} is enough"
        )
    if width != height:
        raise ConfigError(
            f"{path} is {width}x{height}, but images must be square; crop or pad it, to {size}x{size} or more"
        )
    if width < size:
        raise ConfigError(
            f"{path} is {width}x{height}, smaller than data.image_size {size}; lower that or enlarge the image"
        )
    if file.mode.startswith(("I", "F")):
        raise ConfigError(f"{path} has more than 8 bits a channel (mode {file.mode}); save it with 8 bits")
