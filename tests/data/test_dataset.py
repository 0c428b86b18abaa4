from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgankd.config import ConfigError
from cgankd.data.dataset import Dataset, gaps, make_dataset, pixel_stats
from cgankd.types import Split
from tests.data.builders import data_config


def scalar_split(*labels: float) -> Split:
    images = torch.randint(256, (len(labels), 1, 16, 16), dtype=torch.uint8)
    return Split(images, torch.tensor(labels, dtype=torch.float32))


def build(train: Split, test: Split | None = None, **changes: object) -> Dataset:
    cfg = data_config(**({"task": "scalar", "val_per_label": None, "num_val": 2} | changes))
    splits = {"train": train, "val": scalar_split(2.0, 3.0), "test": test or scalar_split(1.0, 4.0)}
    return make_dataset(cfg, splits, label_unit="years", notes={"images_resized": 3.0})


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(0, 1000))
def test_pixel_stats_agree_with_numpy(num: int, channels: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (num, channels, 4, 4), dtype=np.uint8)
    mean, std = pixel_stats(torch.from_numpy(pixels))
    np.testing.assert_allclose(mean, (pixels / 255).mean((0, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(std, (pixels / 255).std((0, 2, 3)), atol=1e-12)


def test_a_flat_channel_has_the_deviation_of_one_level() -> None:
    assert pixel_stats(torch.full((2, 1, 4, 4), 51, dtype=torch.uint8)) == (pytest.approx((0.2,)), (1 / 255,))


def test_label_range_is_that_of_training_unless_set() -> None:
    info = build(scalar_split(1.5, 9.0)).info
    assert (info.label_min, info.label_max, info.label_unit) == (1.5, 9.0, "years")
    info = build(scalar_split(1.5, 9.0), label_min=0.0, label_max=10.0).info
    assert (info.label_min, info.label_max) == (0.0, 10.0)


@pytest.mark.parametrize(
    ("train", "changes", "words"),
    [
        ((5.0, 5.0), {}, "training labels run from 5 to 5"),
        ((5.0, 6.0), {"label_min": 1.5}, "data.label_min 1.5 is above the test label 1"),
        ((2.0, 3.0), {"label_max": 3.5}, "data.label_max 3.5 is below the test label 4"),
        (
            (1.0, 9.0),
            {"label_period": 360.0, "label_min": 2.0, "label_max": 90.0},
            "data.label_max 90 is below the train label 361; raise it",
        ),
        ((), {}, "leaves no train images"),
    ],
)
def test_errors(train: tuple[float, ...], changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(scalar_split(*train), **changes)


def test_classes_that_cannot_be_judged_are_named() -> None:
    names, kind = ("ant", "bee", "cat", "dog"), ("class", "classes")
    counts = {"train": [9, 9, 0, 9], "val": [5, 4, 0, 0], "test": [3, 0, 0, 1]}
    assert gaps(names, counts, kind) == [
        "there is no test image of 1 class (bee)",
        "there are fewer than 5 validation images of 2 classes (bee 4, dog 0)",
    ]
    assert gaps(names, counts, kind, few=1)[1] == "there is no validation image of 1 class (dog 0)"
    assert gaps(names, counts | {"val": [5] * 4, "test": [1] * 4}, kind) == []
    many = tuple(f"c{k}" for k in range(8))
    words = gaps(many, {"train": [1] * 8, "val": [9] * 8, "test": [0] * 8}, kind)
    assert words == ["there is no test image of 8 classes (c0, c1, c2, c3, c4 and 3 more)"]
