"""The photographs of hands that come with the package: 2,062 of 32x32 pixels in colour, no download.

Sign Language Digits Dataset (Mavi 2020, arXiv 2011.08927; Apache-2.0): the licence and what was changed lie beside the picture.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Dataset, make_dataset
from cgankd.data.readers.group_splits import class_rows
from cgankd.data.readers.groups import Grouping
from cgankd.data.readers.image_files import fit_arrays
from cgankd.data.readers.splits import train_caps, val_shares
from cgankd.data.store.room import Room, in_memory
from cgankd.types import LogFn, Split, silent

SHEET = Path(__file__).parent / "embedded" / "hands" / "hands.webp"
"""All photographs as tiles of a lossless picture: a row for each digit, a column for each student; black where there is none."""
SIDE, DIGITS = 32, 10
PIXELS_SHA256 = "72a01be3df5cbced9d5d461f053115b549e8d885eb143a5baf101a160f3d3a3c"
"""Of the sheet's pixels, uint8 in the order row, column, RGB: other decoders of WebP must give the same."""


def load_hands(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Hands that sign the digits 0 to 9, at 32 pixels or averaged down to 16; no student is in two splits.

    Raises ConfigError on settings that this source cannot meet, and where its file is damaged.
    """
    names = tuple(map(str, range(DIGITS)))
    images, label_N, student_N = photographs(SHEET)
    _check(cfg, torch.bincount(label_N).tolist())
    students = Grouping(
        student_N, tuple(f"student {number:03}" for number in range(int(student_N.max()) + 1)), "students"
    )
    rows, account = class_rows(label_N, None, names, cfg, seed, students)
    fitted = fit_arrays(images, cfg)
    splits = {part: Split(fitted[chosen], label_N[chosen]) for part, chosen in rows.items()}
    said = [
        f"digit {digit} of student {student:03}"
        for digit, student in zip(label_N.tolist(), student_N.tolist(), strict=True)
    ]
    files = {part: [said[row] for row in chosen.tolist()] for part, chosen in rows.items()}
    return replace(make_dataset(cfg, splits, label_unit="", class_names=names), account=account, files=files)


def photographs(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Images uint8 [N, 3, 32, 32], digits [N] and numbers of the students [N] of a sheet, by digit and then student.

    Raises ConfigError where the file cannot be decoded, or to other pixels.
    """
    cure = "install cgankd again"
    try:
        with Image.open(path, formats=["WEBP"]) as sheet:
            pixels = np.array(sheet.convert("RGB"))
    except UnidentifiedImageError:
        raise ConfigError(
            f"{path} cannot be read as WebP; {cure}, or Pillow with WebP (the one of PyPI has it)"
        ) from None
    except OSError as problem:
        raise ConfigError(f"{path}: {problem}; {cure}") from None
    if hashlib.sha256(pixels.tobytes()).hexdigest() != PIXELS_SHA256:
        raise ConfigError(f"{path} does not hold the pixels that it should; {cure}")
    tile_KGCHW = pixels.reshape(DIGITS, SIDE, -1, SIDE, 3).transpose(0, 2, 4, 1, 3)
    digit_N, student_N = np.nonzero(tile_KGCHW.any((2, 3, 4)))
    return torch.from_numpy(tile_KGCHW[digit_N, student_N]), torch.from_numpy(digit_N), torch.from_numpy(student_N)


def _check(cfg: DataConfig, counts: list[int]) -> None:
    if cfg.image_size > SIDE:
        raise ConfigError(f"data.image_size must be 16 or {SIDE} for the hands, but is {cfg.image_size}")
    if cfg.test_share is None:
        raise ConfigError("data.test_share must be set for the hands, for example to 0.465, which is 97 of each digit")
    left = [count - round(cfg.test_share * count) for count in counts]
    for digit, (count, rest, val, cap) in enumerate(
        zip(counts, left, val_shares(cfg, left), train_caps(cfg, DIGITS), strict=True)
    ):
        if rest < val + (cap or 1):
            raise ConfigError(
                f"digit {digit} of the hands has {count} photographs, too few for {count - rest} test, {val} validation and"
                f" {cap or 1} training images; lower data.test_share, data.val_per_label, data.num_val or data.train_per_label"
            )
