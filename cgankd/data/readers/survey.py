"""A look at images before there are any settings: their sizes, whether they are grey; and square copies of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from cgankd.config import ConfigError

Fit = Literal["crop", "pad"]
"""How an image becomes square: its middle, or all of it on a larger square."""
GREY_SAMPLE = 100
"""Colour files that are decoded to see whether their three channels are equal."""


@dataclass(frozen=True)
class Survey:
    """Shorter sides in pixels of a set of images, the smallest and the non-square ones, and whether all are grey."""

    median_side: int
    smallest: Path
    smallest_side: int
    not_square: tuple[Path, ...]
    grey: bool


def survey_images(paths: Sequence[Path]) -> Survey:
    """Read the header of every image and the pixels of some. Raises ConfigError naming a file that is no image."""
    assert paths, "a survey needs images"
    sides: list[int] = []
    not_square, coloured = [], []
    for path in paths:
        try:
            with Image.open(path) as file:
                width, height = file.size
                mode = file.mode
        except Exception as error:  # Pillow raises many kinds; each means that this file is no good
            raise ConfigError(
                f"{path} cannot be read as an image ({type(error).__name__}); replace or remove it"
            ) from None
        sides.append(min(width, height))
        if width != height:
            not_square.append(path)
        if mode not in ("1", "L", "LA"):
            coloured.append(path)
    step = max(1, len(coloured) // GREY_SAMPLE)
    grey = all(_is_grey(path) for path in coloured[::step])
    smallest = min(range(len(paths)), key=sides.__getitem__)
    return Survey(int(statistics.median(sides)), paths[smallest], sides[smallest], tuple(not_square), grey)


def _is_grey(path: Path) -> bool:
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB"))
    return bool((pixels == pixels[:, :, :1]).all())


def square_copy(source: Path, target: Path, *, size: int, grey: bool, fit: Fit) -> None:
    """Write a PNG of size x size: the middle square of the image, or all of it on a square of its mean edge colour."""
    with Image.open(source) as file:
        image = ImageOps.exif_transpose(file).convert("L" if grey else "RGB")
    short, long = min(image.size), max(image.size)
    if short != long:
        side = short if fit == "crop" else long
        left, top = (side - image.width) // 2, (side - image.height) // 2
        pixels = np.asarray(image, dtype=np.float64)
        rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(axis=0)
        colour = tuple(round(float(value)) for value in np.atleast_1d(rim))
        square = Image.new(image.mode, (side, side), colour if len(colour) > 1 else colour[0])
        square.paste(image, (left, top))
        image = square
    if image.width != size:
        shrinking = image.width > size
        image = image.resize((size, size), Image.Resampling.BOX if shrinking else Image.Resampling.BICUBIC)
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save(target, format="PNG")
