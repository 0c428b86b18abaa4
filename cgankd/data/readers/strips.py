"""What is done to every pixel of an image, some rows at a time, so that a large one does not lie in memory several times over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

STRIP_PIXELS = 2**21
Array = np.ndarray[Any, Any]


def strips(width: int, height: int) -> Iterator[tuple[int, int]]:
    """First and last row (which is not part of it) of each strip, from the top."""
    rows = max(1, STRIP_PIXELS // max(1, width))
    return ((top, min(height, top + rows)) for top in range(0, height, rows))


def parts(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], Image.Image]]:
    """Box and copy of each strip of an image."""
    for top, bottom in strips(*image.size):
        box = (0, top, image.width, bottom)
        yield box, image.crop(box)


def laid_on(image_RGBA: Image.Image, background: str) -> Image.Image:
    """An image with an alpha channel on one colour, as "RGB"."""
    whole = Image.new("RGB", image_RGBA.size)
    for box, part in parts(image_RGBA):
        ground = Image.new("RGBA", part.size, background)
        whole.paste(Image.alpha_composite(ground, part).convert("RGB"), box)
    return whole


def ink_and_range(image_RGBA: Image.Image) -> tuple[tuple[int, ...] | None, tuple[int, int] | None]:
    """Of what is not wholly transparent: its one colour, None where there are several, and its least and largest value.

    None twice where nothing is seen.
    """
    colour, single, low, high = None, True, 255, 0
    for _, part in parts(image_RGBA):
        pixels = np.asarray(part)
        seen = pixels[pixels[:, :, 3] > 0][:, :3]
        if not len(seen):
            continue
        colour = seen[0] if colour is None else colour
        single = single and bool((seen == colour).all())
        low, high = min(low, int(seen.min())), max(high, int(seen.max()))
    if colour is None:
        return None, None
    return (tuple(colour.tolist()) if single else None), (low, high)


def ends(image: Image.Image) -> tuple[float, float]:
    """Least and largest value of all channels."""
    found = np.array(image.getextrema())
    return float(found.min()), float(found.max())


def is_grey(image_RGB: Image.Image) -> bool:
    """Whether the channels are equal everywhere."""
    found = (np.asarray(part) for _, part in parts(image_RGB))
    return all(bool((pixels == pixels[:, :, :1]).all()) for pixels in found)


def all_finite(values_HW: Array) -> bool:
    """Whether no value is NaN or infinite."""
    height, width = values_HW.shape
    return all(bool(np.isfinite(values_HW[top:bottom]).all()) for top, bottom in strips(width, height))


def range_beside(values_HW: Array, entry: int | None) -> tuple[float, float, bool]:
    """Least and largest value beside that of the transparent pixels, and whether some but not all pixels have that one."""
    height, width = values_HW.shape
    low, high, hidden, seen = np.inf, -np.inf, False, False
    for top, bottom in strips(width, height):
        values = values_HW[top:bottom].astype(np.float64)
        shown = values if entry is None else values[values != entry]
        hidden = hidden or shown.size < values.size
        if shown.size:
            seen, low, high = True, min(low, float(shown.min())), max(high, float(shown.max()))
    if not seen:
        return float(values_HW.min()), float(values_HW.max()), False
    return low, high, hidden


def to_levels(values_HW: Array, low: float, high: float, entry: int | None) -> tuple[Array, Array]:
    """Values as uint8, `low` to 0 and `high` to 255 and all beyond to these; and alpha: 0 where a value is `entry`, else 255."""
    height, width = values_HW.shape
    levels, alpha = np.empty((height, width), np.uint8), np.full((height, width), 255, np.uint8)
    for top, bottom in strips(width, height):
        values = values_HW[top:bottom].astype(np.float64)
        levels[top:bottom] = np.clip(np.rint((values - low) * (255.0 / (high - low))), 0, 255)
        if entry is not None:
            alpha[top:bottom][values == entry] = 0
    return levels, alpha
