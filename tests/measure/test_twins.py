"""Copies across splits against a brute-force search in numpy, and what is said of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from cgankd.data.dataset import make_dataset
from cgankd.data.store.datasets import read_split, write_dataset
from cgankd.data.store.stream import MemoryBudget, StreamedImages
from cgankd.measure import twins
from cgankd.measure.twins import (
    FLAT,
    SHARE,
    copies_across,
    copy_counts,
    copy_sentences,
    near_copies,
    thumbnails,
    usual_difference,
)
from cgankd.rng import generator
from cgankd.types import Split
from tests.data.builders import data_config

Array = np.ndarray[Any, Any]


def smooth(num: int, seed: int, channels: int = 3, size: int = 32) -> Tensor:
    """Pictures of large spots, uint8."""
    coarse = torch.rand(num, channels, 6, 6, generator=generator("twins", seed))
    return (F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1) * 255).round().to(torch.uint8)


def noisy(images: Tensor, levels: int, seed: int) -> Tensor:
    noise = torch.randint(-levels, levels + 1, images.shape, generator=generator("noise", seed))
    return (images.int() + noise).clamp(0, 255).to(torch.uint8)


def direction(image: Array, side: int) -> Array | None:
    """By hand: means of blocks to 16x16 in whole levels, then to `side`, around their mean, of length 1."""
    for target in (16, side):
        step = image.shape[1] // target
        small = np.zeros((image.shape[0], target, target))
        for y in range(target):
            for x in range(target):
                small[:, y, x] = image[:, y * step : (y + 1) * step, x * step : (x + 1) * step].mean((1, 2))
        image = np.rint(small) if target == 16 else small
    vector = image.ravel() - image.mean()
    return None if vector.std() < FLAT else vector / np.linalg.norm(vector)


def by_hand(query: Tensor, among: Tensor, limits: list[float]) -> list[int]:
    rows = []
    ways = [
        [[direction(one.numpy().astype(float), side) for one in images] for side in (8, 16)]
        for images in (query, among)
    ]
    for place in range(len(query)):
        best, least = -1, np.inf
        for other in range(len(among)):
            pairs = [(ways[0][scale][place], ways[1][scale][other]) for scale in (0, 1)]
            far = [np.inf if a is None or b is None else 1 - float(a @ b) for a, b in pairs]
            if far[0] <= limits[0] and far[1] <= limits[1] and far[1] < least:
                best, least = other, far[1]
        rows.append(best)
    return rows


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 16), (1, 64)])
def test_near_copies_are_those_that_all_pairs_give(channels: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    among = torch.cat([smooth(40, 1, channels, size), torch.full((3, channels, size, size), 7, dtype=torch.uint8)])
    query = torch.cat([noisy(among[::3], 6, 2), noisy(among[:9], 40, 3), smooth(10, 4, channels, size), among[-2:]])
    limits = [0.01, 0.012]
    expected = by_hand(query, among, limits)
    assert 10 < sum(row >= 0 for row in expected) < len(query) - 10
    for rows, searched in ((1024, 2048), (5, 7)):
        monkeypatch.setattr(twins, "ROWS", rows)
        monkeypatch.setattr(twins, "SEARCHED", searched)
        assert near_copies(thumbnails(query), thumbnails(among), limits).tolist() == expected


def test_both_sides_must_agree() -> None:
    """Fine lines that blocks of 4 pixels do not show: alike at 8x8, and different at 16x16."""
    base = smooth(1, 5, 1, 16)[0, 0].int()
    lines = torch.tensor([40, -40] * 8)
    one, other = ((base + sign * lines).clamp(0, 255).to(torch.uint8)[None, None] for sign in (1, -1))
    assert near_copies(one, other, [0.05, 2.0]).tolist() == [0] and near_copies(one, other, [0.05, 0.05]).tolist() == [
        -1
    ]


def test_the_usual_difference_is_the_median_over_pairs() -> None:
    thumbs = thumbnails(smooth(60, 6))
    for side in (8, 16):
        ways = [direction(one.numpy().astype(float), side) for one in thumbs]
        far = [1 - float(a @ b) for i, a in enumerate(ways) for b in ways[:i] if a is not None and b is not None]
        assert abs(usual_difference(thumbs, side) - float(np.median(far))) < 0.05
    assert usual_difference(torch.zeros(5, 1, 16, 16, dtype=torch.uint8), 8) == 0


def test_what_a_camera_or_a_program_changes_is_still_a_copy_and_other_pictures_are_none() -> None:
    train = smooth(200, 7)
    saved = []
    for image in train[:30]:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=85, subsampling=0)
        saved.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    darker = (train[30:60].float() * 0.7 + 12).round().to(torch.uint8)
    test = torch.cat([train[60:70], torch.stack(saved), darker, smooth(60, 8)])
    found = copies_across({"train": train, "val": smooth(50, 9), "test": test})
    copies = found["train", "test"]
    assert copies.exact_B.tolist() == [*range(60, 70)] + [-1] * 120
    assert copies.near_B.tolist() == [-1] * 10 + list(range(60)) + [-1] * 60
    assert copies.row_B.tolist() == [*range(60, 70), *range(60)] + [-1] * 60
    counts = copy_counts(found)
    assert counts["exact_copies.test_in_train"] == 10 and counts["near_copies.test_in_train"] == 60
    assert (
        counts["near_copies.val_in_train"]
        == counts["near_copies.test_in_val"]
        == counts["exact_copies.test_in_val"]
        == 0
    )


def test_blank_and_nearly_blank_images_are_only_equal_or_not() -> None:
    blank = torch.full((4, 1, 16, 16), 255, dtype=torch.uint8)
    faint = noisy(torch.full((8, 1, 16, 16), 128, dtype=torch.uint8), 2, 1)
    found = copies_across(
        {"train": torch.cat([smooth(20, 1, 1, 16), blank]), "val": faint, "test": torch.cat([blank, faint])}
    )
    assert copy_counts(found) == {
        "exact_copies.val_in_train": 0.0,
        "near_copies.val_in_train": 0.0,
        "exact_copies.test_in_train": 4.0,
        "near_copies.test_in_train": 0.0,
        "exact_copies.test_in_val": 8.0,
        "near_copies.test_in_val": 0.0,
    }


def test_a_colour_is_a_difference() -> None:
    spot = smooth(1, 3, 1, 32)[0, 0]
    red = torch.stack([spot, torch.zeros_like(spot), torch.zeros_like(spot)])[None]
    others = smooth(20, 4)
    found = copies_across({"train": torch.cat([red, others]), "val": red.flip(1), "test": red.flip(1)})
    assert found["train", "test"].row_B.tolist() == [-1] and found["val", "test"].exact_B.tolist() == [0]


def test_the_scanned_digits_have_hardly_any() -> None:
    """SHARE was chosen so: 1,797 different scans of 8x8 pixels, of which only two are so near."""
    raw = torch.from_numpy(load_digits().images).float()[:, None] * 255 / 16
    images = F.interpolate(raw, size=(16, 16), mode="bilinear", align_corners=False).round().to(torch.uint8)
    thumbs = thumbnails(images)
    limits = [SHARE * usual_difference(thumbs, side) for side in (8, 16)]
    half = len(images) // 2
    assert int((near_copies(thumbs[:half], thumbs[half:], limits) >= 0).sum()) <= 2


def test_streamed_images_give_the_same(tmp_path: Path) -> None:
    images = smooth(30, 1, 1, 16)
    parts = {"train": images, "val": noisy(images[:9], 2, 1), "test": torch.cat([images[3:5], smooth(5, 2, 1, 16)])}
    splits = {name: Split(part, torch.arange(len(part)) % 2) for name, part in parts.items()}
    write_dataset(tmp_path / "d.h5", make_dataset(data_config(), splits, label_unit="", class_names=("a", "b")))
    streamed = {name: read_split(tmp_path / "d.h5", name, MemoryBudget(0)).images for name in parts}
    assert all(isinstance(part, StreamedImages) for part in streamed.values())
    found, plain = copies_across(streamed), copies_across(parts)
    assert copy_counts(plain)["near_copies.val_in_train"] == 9 and copy_counts(plain)["exact_copies.test_in_train"] == 2
    for pair, copies in found.items():
        assert torch.equal(copies.exact_B, plain[pair].exact_B) and torch.equal(copies.near_B, plain[pair].near_B)


def test_what_is_said() -> None:
    numbers = {"num_val": 40.0, "num_test": 200.0, "exact_copies.test_in_train": 3.0, "near_copies.test_in_train": 9.0}
    assert copy_sentences(numbers | {"near_copies.val_in_train": 1.0}) == [
        "1 of 40 validation images (2 %) has a copy among the training images (0 exact, 1 near)",
        "12 of 200 test images (6 %) have a copy among the training images (3 exact, 9 near)",
    ]
    assert copy_sentences({}) == copy_sentences({"num_test": 5, "near_copies.test_in_train": 0.0}) == []


def test_all_images_are_a_hundred_percent() -> None:
    assert [twins.share(*pair) for pair in ((12, 12), (1, 40), (1, 3), (1, 400))] == ["100", "2", "33", "0.2"]
