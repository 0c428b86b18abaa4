"""The photographs of hands that come with the package: what lies in their file, how they are split, what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cgankd.config import ConfigError
from cgankd.data.dataset import Dataset
from cgankd.data.readers import hands
from cgankd.data.readers.sources import load
from cgankd.types import Split
from tests.data.builders import data_config

FILE_SHA256 = "51b64e640d68306310da89943373652eacee7723a920af6bb0844b14497fc5e1"
COUNTS = [205, 206, 206, 206, 207, 207, 207, 206, 208, 204]
# Made once with whole numbers from the 2,062 pictures of 64x64 pixels that the sheet was made from.
SUMS = [
    [36059050, 34681293, 33074198],
    [36346402, 35038177, 33645018],
    [36224762, 34849533, 33467631],
    [36300890, 34651919, 32988464],
    [36538413, 34859999, 33193690],
    [36444583, 34598133, 32763280],
    [36502585, 34986475, 33466020],
    [36220801, 34716687, 33211212],
    [36602786, 35012965, 33406008],
    [36030353, 34296157, 32556433],
]
"""Of all red, green and blue values of a digit."""
SPOTS = {
    (0, 0): ([182, 182, 182], [145, 106, 84], [114, 79, 49]),
    (3, 100): ([154, 149, 145], [142, 116, 84], [103, 100, 96]),
    (7, 205): ([134, 132, 134], [192, 153, 115], [108, 108, 106]),
    (8, 207): ([141, 137, 134], [196, 160, 122], [111, 111, 110]),
    (9, 203): ([128, 127, 132], [198, 159, 123], [130, 127, 122]),
}
"""Pixels at row 0, column 0; row 15, column 17; row 31, column 31 of the photograph of (digit, student)."""
SETTINGS: dict[str, Any] = {
    "source": "hands",
    "image_size": 32,
    "channels": 3,
    "train_per_label": 10,
    "val_per_label": 22,
    "test_share": 0.465,
}


def hand_data(seed: int = 0, **changes: object) -> Dataset:
    return load(data_config(**(SETTINGS | changes)), seed)


def counts(split: Split) -> list[int]:
    return split.labels.bincount(minlength=10).tolist()


def pixels(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def students(names: Sequence[str]) -> set[str]:
    return {name.partition(" of ")[2] for name in names}


def test_the_file_is_the_one_that_was_made() -> None:
    assert hashlib.sha256(hands.SHEET.read_bytes()).hexdigest() == FILE_SHA256
    assert hands.SHEET.stat().st_size < 3_300_000


def test_its_pixels_are_those_of_the_source() -> None:
    images, label_N, student_N = hands.photographs(hands.SHEET)
    assert images.dtype == torch.uint8 and images.shape == (2062, 3, 32, 32)
    assert label_N.bincount().tolist() == COUNTS
    assert [images[label_N == digit].long().sum((0, 2, 3)).tolist() for digit in range(10)] == SUMS
    for (digit, student), (first, middle, last) in SPOTS.items():
        (row,) = ((label_N == digit) & (student_N == student)).nonzero()[:, 0].tolist()
        assert images[row, :, 0, 0].tolist() == first
        assert images[row, :, 15, 17].tolist() == middle
        assert images[row, :, 31, 31].tolist() == last
    assert len({image.numpy().tobytes() for image in images}) == 2062
    assert torch.unique(torch.stack([label_N, student_N]), dim=1).shape[1] == 2062


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_student_is_in_two_splits(seed: int) -> None:
    data = hand_data(seed, train_per_label=None)
    inside = {part: students(data.files[part]) for part in ("train", "val", "test")}
    assert not inside["train"] & inside["val"]
    assert not inside["train"] & inside["test"] and not inside["val"] & inside["test"]
    # All photographs are somewhere, each once.
    assert sum(map(len, data.splits().values())) == 2062
    assert len(set.union(*map(pixels, data.splits().values()))) == 2062
    assert data.account.counts["groups"] == 208 == sum(map(len, inside.values()))
    assert data.account.counts["groups_test"] == len(inside["test"])


def test_counts_of_the_preset() -> None:
    data = hand_data()
    assert counts(data.train) == [10] * 10 and counts(data.val) == [22] * 10
    asked = [round(0.465 * count) for count in COUNTS]
    assert all(abs(have - want) <= 1 for have, want in zip(counts(data.test), asked, strict=True))
    assert data.info.class_names == tuple("0123456789") and data.train.labels.dtype == torch.int64
    assert data.account.lines[0].startswith("groups: 208 (students) of 1 to 10 images; ")


def test_splits_are_a_function_of_the_seed_and_the_larger_set_holds_the_smaller() -> None:
    few, again, many, other = hand_data(), hand_data(), hand_data(train_per_label=30), hand_data(1)
    for part, split in few.splits().items():
        assert torch.equal(split.images, again.splits()[part].images)
        assert torch.equal(split.labels, again.splits()[part].labels)
    for part in ("val", "test"):
        assert torch.equal(few.splits()[part].images, many.splits()[part].images)
    assert pixels(few.train) < pixels(many.train) and counts(many.train) == [30] * 10
    assert pixels(few.test) != pixels(other.test)


def test_labels_and_names_go_with_their_images() -> None:
    images, label_N, student_N = hands.photographs(hands.SHEET)
    known = {image.numpy().tobytes(): row for row, image in enumerate(images)}
    data = hand_data(3)
    for part, split in data.splits().items():
        for image, label, name in zip(split.images, split.labels.tolist(), data.files[part], strict=True):
            row = known[image.numpy().tobytes()]
            assert (int(label_N[row]), f"digit {label} of student {int(student_N[row]):03}") == (label, name)


def test_half_the_size_and_grey() -> None:
    whole, half, grey = hand_data(), hand_data(image_size=16), hand_data(channels=1)
    blocks = whole.val.images.double().numpy().reshape(220, 3, 16, 2, 16, 2)
    assert (half.val.images.numpy() == np.rint(blocks.mean((3, 5)))).all()
    weights = np.array([0.299, 0.587, 0.114])[:, None, None]
    luma = (whole.val.images.double().numpy() * weights).sum(1, keepdims=True)
    assert grey.val.images.shape == (220, 1, 32, 32)
    assert np.abs(grey.val.images.numpy() - luma).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 64}, "data.image_size must be 16 or 32 for the hands, but is 64"),
        ({"test_share": None}, "data.test_share must be set for the hands"),
        (
            {"train_per_label": 200},
            "digit 0 of the hands has 205 photographs, too few for 95 test, 22 validation and 200",
        ),
        ({"val_per_label": 120}, "too few for 95 test, 120 validation and 10 training images; lower data.test_share"),
        ({"task": "scalar", "num_val": 20, "val_per_label": None}, "data.task must be class for data.source hands"),
        ({"groups": "folder"}, "data.groups must be null for data.source hands"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        hand_data(**changes)


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, path = hands.SHEET.read_bytes(), tmp_path / "hands.webp"
    monkeypatch.setattr(hands, "SHEET", path)
    with pytest.raises(ConfigError, match=r"hands\.webp.*install cgankd again"):
        hand_data()
    path.write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"hands\.webp cannot be read as WebP; install cgankd again"):
        hand_data()
    path.write_bytes(whole[:2_000_000])
    with pytest.raises(ConfigError, match=r"hands\.webp.*install cgankd again"):
        hand_data()
    Image.new("RGB", (6656, 320)).save(path, "WEBP", lossless=True)
    with pytest.raises(ConfigError, match=r"hands\.webp does not hold the pixels that it should; install cgankd again"):
        hand_data()


def test_the_notice_says_what_the_licence_asks_for() -> None:
    folder = hands.SHEET.parent
    licence, notice = ((folder / name).read_text(encoding="utf-8") for name in ("LICENSE", "NOTICE"))
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence
    assert "Copyright 2017 Arda Mavi" in licence and "Copyright 2017 Arda Mavi" in notice
    for words in ("arXiv:2011.08927", "github.com/ardamavi/Sign-Language-Digits-Dataset", "reduced", "32x32"):
        assert words in notice
