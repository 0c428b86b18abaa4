"""The maker of the embedded photographs, on a few pictures: each tile in its place, reduced by the mean of 2x2 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.hands_sheet import halved, sheet_of

LINES = {"a.png": (0, 0), "b.png": (9, 1), "c.png": (4, 1)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = ["path,label,group"]
    for seed, (name, (label, group)) in enumerate(LINES.items()):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name)
        lines.append(f"{name},{label},{group}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_means_are_exact_and_halves_go_to_even() -> None:
    square = np.array([[0, 1], [0, 1]], np.uint8)
    assert halved(np.stack([square, square + 1, square * 3], 2)).tolist() == [[[0, 2, 2]]]


def test_each_picture_is_a_tile_of_its_own(folder: Path) -> None:
    sheet = sheet_of(folder)
    assert sheet.shape == (320, 64, 3) and sheet.dtype == np.uint8
    for name, (label, group) in LINES.items():
        whole = np.asarray(Image.open(folder / name)).astype(int)
        four = whole[::2, ::2] + whole[1::2, ::2] + whole[::2, 1::2] + whole[1::2, 1::2]
        tile = sheet[32 * label : 32 * label + 32, 32 * group : 32 * group + 32].astype(int)
        assert (np.abs(4 * tile - four) <= 2).all() and (tile[four % 4 == 2] % 2 == 0).all()
        sheet[32 * label : 32 * label + 32, 32 * group : 32 * group + 32] = 0
    assert not sheet.any()


def test_two_pictures_of_one_place_are_refused(folder: Path) -> None:
    with (folder / "labels.csv").open("a") as file:
        file.write("a.png,0,0\n")
    with pytest.raises(AssertionError, match=r"a\.png: one photograph a digit and group"):
        sheet_of(folder)
