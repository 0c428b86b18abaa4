"""One image file brought to 8 bits, grey or colour, square and of one size: the same for every reader and for `predict`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageColor, ImageOps

from cgankd.config import ConfigError
from cgankd.data.readers.strips import all_finite, ends, ink_and_range, is_grey, laid_on, range_beside, to_levels
from cgankd.data.readers.walk import formats
from cgankd.data.regular import open_regular
from cgankd.types import ImageShape

MAX_PIXELS = 2**26
"""Largest image that is decoded (67 megapixels); the size is known from the header, before any pixel."""
SLOW_PIXELS = 2**22
"""The same for formats that Pillow decodes pixel by pixel in Python, a second for each million of them."""
MAX_FILE = 2**29
"""Bytes of the largest image file that is read (512 MiB)."""
LONGEST_PADDED = 2**13
"""Longer sides are reduced before an image is padded to a square, which could otherwise fill the memory."""
TYPE_RANGE = (0.0, 65535.0)
"""Values of a 16-bit image that become 0 and 255 where `pixel_range` is null."""
WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
Array = np.ndarray[Any, Any]
Note = Callable[[str], None]
"""Takes what was done to an image, or is to be said of it, by the name of its count in metrics/prepare.json."""
SAID = {
    "images_resized": "brought to data.image_size",
    "images_fitted": "not square: brought to a square as data.fit says",
    "images_enlarged": "smaller than data.image_size and enlarged, as data.enlarge says",
    "images_transparent": "with transparent parts, laid on data.background",
    "images_deep": "of more than 8 bits a channel, brought to 8 by one rule (data.pixel_range)",
    "images_several": "files of several pictures or pages, of which the first is used",
    "images_blank": "of one single value all over",
}
"""Each count of images and what it means."""


class ImageRules(ImageShape, Protocol):
    """Whatever says what becomes of an image file: the data settings, or a data set, which keeps them for new images."""

    @property
    def fit(self) -> str: ...

    @property
    def enlarge(self) -> bool: ...

    @property
    def pad_colour(self) -> str | None: ...

    @property
    def background(self) -> str: ...

    @property
    def pixel_range(self) -> tuple[float, ...] | None: ...


@dataclass(frozen=True)
class Look:
    """What init wants to know of one image: its upright size and whether it has colour; `low` and `high` are the least and
    largest value, as they are in a grey image of more than 8 bits (`deep`), else of 256; `ink` is the one colour of a
    drawing on a transparent ground, which is not seen on a ground of that colour; `notes` are names of SAID."""

    size: tuple[int, int]
    grey: bool
    deep: str
    low: float
    high: float
    ink: tuple[int, ...] | None
    notes: frozenset[str]


def read_image(path: Path, rules: ImageRules) -> tuple[Array, frozenset[str]]:
    """Pixels uint8 [C, S, S] of a file and what was done to it (names of SAID).

    Raises ConfigError naming the file and the cure where it is no image, too large, not square or smaller than S without
    leave for that, or of more than 8 bits in a way that the rules do not cover.
    """
    notes: set[str] = set()
    with open_image(path) as file:
        image = _fitted(path, _plain(path, file, rules, notes.add), rules, notes.add)
        pixels = np.array(image)
    if pixels.min() == pixels.max():
        notes.add("images_blank")
    return pixels.reshape(rules.image_size, rules.image_size, rules.channels).transpose(2, 0, 1), frozenset(notes)


def copy_image(source: Path, target: Path, rules: ImageRules) -> None:
    """Write what `read_image` gives as a PNG, which is then read as it is. Raises ConfigError."""
    pixels, _ = read_image(source, rules)
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[0] if rules.channels == 1 else pixels.transpose(1, 2, 0)).save(target, format="PNG")


def look_at(path: Path) -> Look:
    """Decode a file to its end, before there are any settings. Raises ConfigError where that cannot be."""
    notes: set[str] = set()
    ink = None
    with open_image(path) as file:
        depth = deep(file)
        _remarks(file, notes.add)
        if depth in ("", COLOUR):
            entry = file.info.get("transparency")
            image = _on_background(file, "#ffffff", notes.add).convert("RGB")
            low, high = ends(image)
            blank, size = low == high, image.size
            grey = file.mode in ("1", "L", "LA") or is_grey(image)
            if "images_transparent" in notes:  # what lies behind is no value of the image
                del image
                ink, seen = ink_and_range(_layered(file, entry))
                low, high = seen or (low, high)
        else:
            values, entry = _values(path, file)
            low, high, partly = range_beside(values, entry)
            if partly:
                notes.add("images_transparent")
            size, grey, blank = (values.shape[1], values.shape[0]), True, low == high
    if ink is None and blank:
        notes.add("images_blank")
    return Look(size, grey, depth, float(low), float(high), ink, frozenset(notes))


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """A file as Pillow opens it, its size checked before any pixel. Every failure within is a ConfigError naming it."""
    try:
        with open_regular(path, MAX_FILE) as raw, Image.open(raw, formats=formats()) as file:
            by_python = any(tile[0] in Image.DECODERS for tile in getattr(file, "tile", None) or ())
            _check_pixels(path, file.width * file.height, SLOW_PIXELS if by_python else MAX_PIXELS)
            yield file
    except ConfigError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as problem:
        digits = re.search(r"\d+", str(problem))
        _check_pixels(path, int(digits[0]) if digits else 2 * MAX_PIXELS)
    except FileNotFoundError:
        words = "is a link to a file that is not there" if path.is_symlink() else "does not exist"
        raise ConfigError(f"{path} {words}; replace or remove it") from None
    except Exception as problem:  # Pillow's decoders raise many kinds; each means that this file is no good.
        raise ConfigError(
            f"{path} cannot be read as an image ({type(problem).__name__}: {str(problem)[:200]}); replace it or remove it"
        ) from None


def _check_pixels(path: Path, count: int, most: int = MAX_PIXELS) -> None:
    if count > most:
        other = "" if most == MAX_PIXELS else ", or save it in another format"
        raise ConfigError(
            f"{path} has {count / 1e6:.0f} megapixels, more than the {most // 10**6} that are read; make it smaller"
            f"{other}"
        )


COLOUR = "16 bits a colour"


def deep(file: Image.Image) -> str:
    """How a file has more than 8 bits a channel; empty where it has not. To be asked before the pixels are loaded."""
    tiles = getattr(file, "tile", None)  # which files have, and images in memory have not
    raw = str(tiles[0][3]) if tiles else ""
    if file.mode.startswith("I;16") or (file.mode == "I" and (file.format == "PPM" or ";16" in raw)):
        return "16 bits"
    if file.mode == "I":
        return "32 bits"
    if file.mode == "F":
        return "floating point"
    return COLOUR if ";16" in raw else ""


def _plain(path: Path, file: Image.Image, rules: ImageRules, note: Note) -> Image.Image:
    """A file upright, without transparency, with 8 bits, as "L" or "RGB"."""
    depth = deep(file)
    _remarks(file, note)
    if depth in ("", COLOUR):
        return _on_background(file, rules.background, note).convert("L" if rules.channels == 1 else "RGB")
    if depth != "16 bits" and rules.pixel_range is None:
        raise ConfigError(
            f"{path} has more than 8 bits a channel ({depth}, mode {file.mode}); set data.pixel_range to the values that"
            " are black and white in the whole set, such as [0, 1], or save all images with 8 bits"
        )
    low, high = rules.pixel_range or TYPE_RANGE
    values, entry = _values(path, file)
    levels, alpha = to_levels(values, low, high, entry)
    image = Image.fromarray(levels)
    if not alpha.all():
        note("images_transparent")
        image.putalpha(Image.fromarray(alpha))
        image = laid_on(image.convert("RGBA"), rules.background)
    return image.convert("L" if rules.channels == 1 else "RGB")


def _values(path: Path, file: Image.Image) -> tuple[Array, int | None]:
    """The values of a grey image of many bits, upright, and the one that its file calls transparent."""
    entry = file.info.get("transparency")
    values = np.asarray(_upright(file))
    if not all_finite(values):
        raise ConfigError(f"{path} has values that are no finite numbers; replace or remove it")
    return values, entry if isinstance(entry, int) else None


def _upright(file: Image.Image) -> Image.Image:
    """The image turned as its EXIF says, in its own place: a copy of a large one would take as much memory again."""
    file.load()
    ImageOps.exif_transpose(file, in_place=True)
    return file


def _remarks(file: Image.Image, note: Note) -> None:
    if deep(file):
        note("images_deep")
    if getattr(file, "n_frames", 1) > 1:
        note("images_several")


def _on_background(file: Image.Image, background: str, note: Note) -> Image.Image:
    """An image upright and, where parts of it are transparent, laid on one colour."""
    entry = file.info.get("transparency")
    image = _upright(file)
    if image.mode not in WITH_ALPHA and entry is None:
        return image
    layered = _layered(image, entry)
    if layered.getchannel("A").getextrema() == (255, 255):
        return layered.convert("RGB")
    note("images_transparent")
    return laid_on(layered, background)


def _layered(image: Image.Image, entry: object) -> Image.Image:
    """An image with an alpha channel; `entry` is the colour that its file calls transparent."""
    if entry is not None:
        image.info["transparency"] = entry
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    return image if image.mode == "RGBA" else image.convert("RGBA")


def _fitted(path: Path, image: Image.Image, rules: ImageRules, note: Note) -> Image.Image:
    size = rules.image_size
    if image.size != (size, size):
        note("images_resized")
    if image.width != image.height:
        if rules.fit == "refuse":
            raise ConfigError(
                f"{path} is {image.width}x{image.height}, but images must be square; crop, pad or stretch it (data.fit, or"
                " --square of init and predict)"
            )
        note("images_fitted")
    shown = image.size
    if rules.fit == "crop":
        image = _cropped(image)
    elif rules.fit == "pad":
        image = _padded(image, rules.pad_colour)
    short = min(image.size)
    if short < size:
        if not rules.enlarge:
            raise ConfigError(
                f"{path} is {shown[0]}x{shown[1]}, smaller than data.image_size {size}; lower that or enlarge the image"
                " (data.enlarge, or --enlarge of init and predict)"
            )
        note("images_enlarged")
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BOX if short >= size else Image.Resampling.BICUBIC)


def _cropped(image: Image.Image) -> Image.Image:
    """The middle square."""
    if image.width == image.height:
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _padded(image: Image.Image, colour: str | None) -> Image.Image:
    """All of an image on a square of one colour, None being the mean of its edge."""
    if image.width == image.height:
        return image
    if max(image.size) > LONGEST_PADDED:
        image = image.reduce(-(-max(image.size) // LONGEST_PADDED))
    side = max(image.size)
    if colour is None:
        pixels = np.asarray(image)
        rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(axis=0, dtype=np.float64)
        levels = tuple(round(float(value)) for value in np.atleast_1d(rim))
        ground: Any = levels if len(levels) > 1 else levels[0]
    else:
        ground = ImageColor.getcolor(colour, image.mode)
    square = Image.new(image.mode, (side, side), ground)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
