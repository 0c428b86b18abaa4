"""Makes the embedded photographs of hands anew: `python -m benchmarks.hands_sheet FOLDER OUT.webp`.

FOLDER holds 64x64 pictures and labels.csv (path, label, group) of the Sign Language Digits Dataset
(github.com/ardamavi/Sign-Language-Digits-Dataset, Apache-2.0), the photographs of 100x100 pixels reduced.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from cgankd.data.readers.hands import DIGITS, SIDE


def halved(pixels: np.ndarray) -> np.ndarray:
    """Pixels uint8 [2S, 2S, 3] reduced to [S, S, 3]: the mean of each 2x2, halves rounded to even as `data.image_size` does."""
    height, width, channels = pixels.shape
    return np.rint(pixels.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))).astype(np.uint8)


def sheet_of(folder: Path) -> np.ndarray:
    """All photographs as tiles [10 x 32, groups x 32, 3]: row = digit, column = group, black where there is none."""
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    groups = 1 + max(int(line["group"]) for line in lines)
    tile_KGHWC = np.zeros((DIGITS, groups, SIDE, SIDE, 3), np.uint8)
    for line in lines:
        tile = tile_KGHWC[int(line["label"]), int(line["group"])]
        assert not tile.any(), f"{line['path']}: one photograph a digit and group"
        with Image.open(folder / line["path"]) as picture:
            tile[:] = halved(np.asarray(picture.convert("RGB")))
        assert tile.any(), f"{line['path']} is black, as a tile without a photograph is"
    return tile_KGHWC.transpose(0, 2, 1, 3, 4).reshape(DIGITS * SIDE, groups * SIDE, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    pixels = sheet_of(given.folder)
    Image.fromarray(pixels).save(given.out, "WEBP", lossless=True, quality=100, method=6)
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")
    print(f"SHA-256 of the pixels: {hashlib.sha256(pixels.tobytes()).hexdigest()}")


if __name__ == "__main__":
    main()
